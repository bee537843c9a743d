"""The receiving half of a session: what was delivered, what the application took, what is to be acknowledged.

Owns the deliveries not taken yet, the history that drops repeats (1,024 ids of each sender, 65,536 in all) and the
sequences to acknowledge. Invariants: an id is shown once; a sequence is acknowledged only after its id was taken; a
delivery that was not taken is never forgotten.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Deque, Dict, Iterable, List, Tuple

from ._frames import Ack, DecodeError, Deliver
from ._protocol import RANGES_MAX, encode, ranges_of

SENDER_IDS_MAX = 1024
IDS_MAX = 65_536
# Far more than a delivery window: a server that sends more without an acknowledgement ignores the protocol.
UNTAKEN_MAX = 65_536


class Delivery:
    """One message from the server, with every sequence under which the present connection delivered it."""

    __slots__ = ("body", "id", "sender", "sent_at_ms", "sequences")

    def __init__(self, frame: Deliver) -> None:
        self.sequences: List[int] = [frame.sequence]
        self.id = frame.id
        self.sender = frame.sender
        self.sent_at_ms = frame.sent_at
        self.body = frame.body


class _Sender:
    """What is remembered of one sender: the ids taken, oldest first, and the highest id shown."""

    __slots__ = ("highest", "ids")

    def __init__(self) -> None:
        self.ids: Deque[bytes] = deque()
        self.highest = b""


class Inbox:
    def __init__(self) -> None:
        self.ready: Deque[Delivery] = deque()
        self._untaken: Dict[Tuple[str, bytes], Delivery] = {}
        self._taken: OrderedDict[Tuple[str, bytes], None] = OrderedDict()
        self._senders: Dict[str, _Sender] = {}
        self._last_sequence = 0
        self._acknowledgements: List[int] = []

    @property
    def has_acknowledgements(self) -> bool:
        return bool(self._acknowledgements)

    def on_deliver(self, frame: Deliver) -> None:
        if frame.sequence != self._last_sequence + 1:
            raise DecodeError(f"DELIVER {frame.sequence} follows {self._last_sequence}")
        self._last_sequence = frame.sequence
        key = (frame.sender, frame.id)
        untaken = self._untaken.get(key)
        if untaken is not None:
            untaken.sequences.append(frame.sequence)
        elif key in self._taken:
            self._acknowledgements.append(frame.sequence)
        elif len(self._untaken) >= UNTAKEN_MAX:
            raise DecodeError(f"more than {UNTAKEN_MAX} deliveries without an acknowledgement")
        else:
            delivery = self._untaken[key] = Delivery(frame)
            self.ready.append(delivery)

    def on_lost(self) -> None:
        """Sequences are of one connection: what is not taken will be delivered again under new ones."""
        self._last_sequence = 0
        self._acknowledgements.clear()
        for delivery in self._untaken.values():
            delivery.sequences.clear()

    def show_next(self) -> Tuple[Delivery, bool]:
        """The oldest delivery not shown yet, and whether it is late. Only while `ready` is not empty."""
        delivery = self.ready.popleft()
        sender = self._senders.get(delivery.sender)
        if sender is None:
            sender = self._senders[delivery.sender] = _Sender()
        is_late = delivery.id < sender.highest
        if not is_late:
            sender.highest = delivery.id
        return delivery, is_late

    def acknowledge(self, delivery: Delivery) -> None:
        """The application has taken it. The second time nothing happens."""
        key = (delivery.sender, delivery.id)
        if self._untaken.get(key) is not delivery:
            return
        del self._untaken[key]
        self._remember(key)
        self._acknowledgements.extend(delivery.sequences)

    def acknowledgement_frames(self) -> Iterable[bytes]:
        """What the application has taken since the last call, as ACK frames."""
        ranges = ranges_of(self._acknowledgements)
        self._acknowledgements.clear()
        for at in range(0, len(ranges), RANGES_MAX):
            yield encode(Ack(tuple(ranges[at : at + RANGES_MAX])))

    def _remember(self, key: Tuple[str, bytes]) -> None:
        name, id = key
        sender = self._senders.get(name)
        if sender is not None and len(sender.ids) >= SENDER_IDS_MAX:
            del self._taken[(name, sender.ids.popleft())]
        elif len(self._taken) >= IDS_MAX:
            self._forget_oldest()
        # Forgetting may have ended the record of this very sender.
        self._senders.setdefault(name, _Sender()).ids.append(id)
        self._taken[key] = None

    def _forget_oldest(self) -> None:
        # Both orders are the order of taking, so the oldest of all is the oldest of its sender.
        (name, _), _ = self._taken.popitem(last=False)
        sender = self._senders[name]
        sender.ids.popleft()
        if not sender.ids:
            del self._senders[name]
