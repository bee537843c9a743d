"""The sending half of a session: messages from `send` to their first answer, in the order of sending.

Owns the queue, what is unanswered on this connection, and the receipts that may still rise to "delivered". In: CONFIRM
and REFUSED by sequence. Out: SEND frames within the window of WELCOME. Invariants: unanswered messages and bytes stay
within the window; after a lost connection what is unanswered goes out again first, in order, under its ids.
"""

from __future__ import annotations

import uuid
from collections import OrderedDict, deque
from typing import Deque, Dict, Optional

from ._frames import Code, DecodeError, Refuse, Welcome
from ._protocol import SEND_OVERHEAD_BYTES, encode_send
from .errors import Refused
from .message import Receipt

# Receipts of stored messages that can still hear "delivered"; it is best effort, so the oldest give way.
STORED_MAX = 65_536


class Sending:
    """One message on its way. Settled once: with a receipt or an error."""

    __slots__ = ("_id", "body", "error", "is_done", "receipt", "recipient")

    def __init__(self, id: bytes, recipient: bytes, body: bytes) -> None:
        self._id = id
        self.recipient = recipient
        self.body = body
        self.receipt: Optional[Receipt] = None
        self.error: Optional[Exception] = None
        self.is_done = False

    @property
    def id(self) -> uuid.UUID:
        return uuid.UUID(bytes=self._id)

    def settle(self, receipt: Optional[Receipt], error: Optional[Exception]) -> None:
        self.body = b""
        self.receipt = receipt
        self.error = error
        self.is_done = True
        self.on_settled()

    def refuse(self, code: int, wait_ms: int, reason: str) -> None:
        error = Refused(code, wait_ms / 1000, reason)
        error.id = self.id
        self.settle(None, error)

    def on_settled(self) -> None:
        """For the driver, which has somebody waiting."""


class Outbox:
    def __init__(self, queue_messages_max: int, queue_bytes_max: int) -> None:
        self.is_held = False
        self._queue_messages_max = queue_messages_max
        self._queue_bytes_max = queue_bytes_max
        self._queue: Deque[Sending] = deque()
        self._unanswered: Dict[int, Sending] = {}
        self._stored: OrderedDict[int, Receipt] = OrderedDict()
        self._bytes = 0
        self._unanswered_bytes = 0
        self._last_sequence = 0
        self._window_messages = 0
        self._window_bytes = 0
        self._body_bytes_max = 0
        self._frame_bytes_max = 0

    def __len__(self) -> int:
        """Messages without an answer, sent or queued."""
        return len(self._queue) + len(self._unanswered)

    @property
    def has_unanswered(self) -> bool:
        return bool(self._unanswered)

    def has_room(self, body_bytes: int) -> bool:
        """Whether the bounded queue takes such a body. One message always fits into an empty queue."""
        count = len(self)
        return not count or (count < self._queue_messages_max and self._bytes + body_bytes <= self._queue_bytes_max)

    @property
    def has_drained(self) -> bool:
        """Half empty: time to wake those who wait for room, so that they are not woken for every message."""
        return len(self) * 2 <= self._queue_messages_max and self._bytes * 2 <= self._queue_bytes_max

    def add(self, sending: Sending) -> None:
        self._bytes += len(sending.body)
        self._queue.append(sending)

    def on_welcome(self, frame: Welcome) -> None:
        self._window_messages = frame.window_messages
        self._window_bytes = frame.window_bytes
        self._body_bytes_max = min(frame.body_bytes_max, frame.window_bytes)
        self._frame_bytes_max = frame.frame_bytes_max
        self.is_held = False

    def on_lost(self) -> None:
        self._queue.extendleft(reversed(self._unanswered.values()))
        self._unanswered.clear()
        self._stored.clear()
        self._unanswered_bytes = 0
        self._last_sequence = 0
        self._window_messages = 0

    def write_sends(self, out: bytearray) -> None:
        """Appends the SEND frames that the window has room for."""
        while self._queue and not self.is_held and len(self._unanswered) < self._window_messages:
            sending = self._queue[0]
            size = len(sending.body)
            if self._refuses_locally(sending):
                continue
            if self._unanswered and self._unanswered_bytes + size > self._window_bytes:
                return
            self._queue.popleft()
            self._last_sequence += 1
            self._unanswered[self._last_sequence] = sending
            self._unanswered_bytes += size
            out += encode_send(self._last_sequence, sending._id, sending.recipient, sending.body)

    def _refuses_locally(self, sending: Sending) -> bool:
        # A frame over the limit costs the connection, and would again after every reconnect.
        size = len(sending.body)
        frame_bytes = SEND_OVERHEAD_BYTES + len(sending.recipient) + size
        if size <= self._body_bytes_max and frame_bytes <= self._frame_bytes_max:
            return False
        self._queue.popleft()
        self._bytes -= size
        sending.refuse(Code.BODY_TOO_LARGE, 0, f"a body of {size} bytes, the server takes {self._body_bytes_max}")
        return True

    def on_confirm(self, sequence: int, level: int, copies: int) -> None:
        sending = self._answered(sequence)
        if sending is None:
            self._raise_level(sequence, level)
            return
        receipt = Receipt(sending._id, "delivered" if level == 2 else "stored", copies if level == 1 else 0)
        if level == 1:
            if len(self._stored) >= STORED_MAX:
                self._stored.popitem(last=False)
            self._stored[sequence] = receipt
        sending.settle(receipt, None)

    def _raise_level(self, sequence: int, level: int) -> None:
        if level == 2:
            receipt = self._stored.pop(sequence, None)
            if receipt is not None:
                receipt.level = "delivered"

    def on_refused(self, frame: Refuse) -> None:
        self.check_sequence(frame.sequence)
        sending = self._answered(frame.sequence)
        if sending is not None:
            sending.refuse(frame.code, frame.wait_ms, frame.reason)

    def check_sequence(self, sequence: int) -> None:
        if not 1 <= sequence <= self._last_sequence:
            raise DecodeError(f"an answer to SEND {sequence}, the last one was {self._last_sequence}")

    def _answered(self, sequence: int) -> Optional[Sending]:
        sending = self._unanswered.pop(sequence, None)
        if sending is not None:
            self._unanswered_bytes -= len(sending.body)
            self._bytes -= len(sending.body)
        return sending

    def on_ended(self, error: Exception) -> None:
        """No answer will come any more."""
        self.on_lost()
        while self._queue:
            self._queue.popleft().settle(None, error)
        self._bytes = 0
