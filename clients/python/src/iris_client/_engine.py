"""The client's side of the protocol as a machine without I/O: bytes in, bytes out, time as an argument.

Owns one user's session over all its connections: opening, the two halves (`_outbox`, `_inbox`), presence, pings, drain,
reconnecting, the end. The drivers (`_link`, `_async_link`) move the bytes, call `on_timer` no later than
`next_deadline`, and disconnect when `must_disconnect` says so. Invariants: once `ended` is set nothing waits for an
answer; nothing but HELLO is written before WELCOME. Times are seconds of a monotonic clock; the driver locks.
"""

from __future__ import annotations

import enum
import random
from dataclasses import dataclass
from typing import Callable, Dict, Optional, Tuple, Union

from ._backoff import Backoff
from ._frames import (
    Close,
    Code,
    Confirm,
    DecodeError,
    Deliver,
    Drain,
    Frame,
    Hello,
    Ping,
    Pong,
    PresenceIs,
    Refuse,
    Welcome,
)
from ._ids import IdSource
from ._inbox import Inbox
from ._outbox import Outbox, Sending
from ._presence import PresenceDesk
from ._protocol import (
    CAPABILITY_PRESENCE,
    SERVER_FRAMES,
    TOKEN_BYTES_MAX,
    VERSION,
    FrameDecoder,
    encode,
    encode_user,
)
from .errors import CannotConnect, ClientClosed, IrisError, ProtocolFault, Refused, SessionRefused, TakenOver

AGENT = "iris_client-python/0.1.0"

# Closed with one of these, connecting again cannot help.
_FINAL = frozenset((Code.VERSION, Code.BAD_USER, Code.UNAUTHORIZED))
# One of the two has a bug. A new connection may get around it, so it is tried, but not for ever.
_FAULTS = frozenset((Code.PROTOCOL_ERROR, Code.FRAME_TOO_LARGE, Code.WINDOW_EXCEEDED))
_FAULTS_MAX = 3

# WELCOME says what the server takes, not what it sends; this bounds what a length field may announce.
_FRAME_BYTES_MAX = 64 * 1024 * 1024


@dataclass(frozen=True)
class Settings:
    """Bounds and times of a session. Times are seconds."""

    queue_messages_max: int = 16_384
    queue_bytes_max: int = 64 * 1024 * 1024
    hello_s_max: float = 10.0
    # Even a server that does not mind silence is asked this often whether it is there.
    ping_s_max: float = 60.0
    answer_s_max: float = 15.0
    drain_s_max: float = 5.0
    backoff_s_min: float = 0.1
    backoff_s_max: float = 10.0
    # A connection that lasted this long, or carried anything, starts the backoff anew.
    settled_s: float = 5.0


class Phase(enum.Enum):
    AWAY = "away"
    OPENING = "opening"
    READY = "ready"


class Engine:
    def __init__(
        self, user: str, token: Union[str, bytes, None], settings: Settings, rng: Optional[random.Random] = None
    ) -> None:
        self._hello = _hello(user, token)
        self._settings = settings
        rng = rng or random.SystemRandom()
        self._ids = IdSource(rng)
        self._backoff = Backoff(settings.backoff_s_min, settings.backoff_s_max, rng)
        self.outbox = Outbox(settings.queue_messages_max, settings.queue_bytes_max)
        self.inbox = Inbox()
        self.presence = PresenceDesk()
        self.phase = Phase.AWAY
        self.ended: Optional[IrisError] = None
        self.must_disconnect = False
        self.reconnect_at = 0.0
        self.was_welcomed = False
        self.region = ""
        self.last_close: Optional[SessionRefused] = None
        self._out = bytearray()
        self._decoder = _new_decoder()
        self._clock_ahead_ms = 0.0
        self._faults = 0
        self._has_left = False
        self._has_progress = False
        self._why_lost = ""
        self._opened_at = self._welcomed_at = 0.0
        self._sent_at = self._heard_at = 0.0
        self._ping_s = settings.ping_s_max
        self._ping_token = 0
        self._pong_by: Optional[float] = None
        # ACK is not answered; a PONG to a later PING proves that it arrived.
        self._is_ack_unproven = False
        self._proof_token: Optional[int] = None
        self._drain_at: Optional[float] = None
        self._closing_until: Optional[float] = None
        self._handlers: Dict[type, Callable[..., None]] = {
            Welcome: self._on_welcome,
            Deliver: self._on_deliver,
            Confirm: self._on_confirm,
            Refuse: self._on_refused,
            PresenceIs: self._on_presence,
            Pong: self._on_pong,
            Drain: self._on_drain,
            Close: self._on_close,
        }

    # --- the application ---------------------------------------------------------------------------------------------

    @property
    def is_closing(self) -> bool:
        return self._closing_until is not None

    def check_usable(self) -> None:
        """Raises what ended the session, or that it is being closed."""
        if self.ended is not None:
            raise self.ended.with_traceback(None)
        if self.is_closing:
            raise ClientClosed("the client is closed")

    def new_id(self, chosen: Optional[bytes], now: float) -> bytes:
        """The id of the next message to `outbox.add`: the chosen one, or a new one that follows all before."""
        clock_ms = int(now * 1000 + self._clock_ahead_ms)
        if chosen is None:
            return self._ids.next_id(clock_ms)
        self._ids.note(chosen, clock_ms)
        return chosen

    @property
    def out(self) -> bytearray:
        """Where frames that are not sends or acknowledgements (presence) are put."""
        return self._out

    def begin_close(self, until: float) -> None:
        """No more sends; the session ends when all is answered and proven to have arrived, or at `until`."""
        if self._closing_until is None or until < self._closing_until:
            self._closing_until = until

    def end(self, error: IrisError) -> None:
        """Nothing will be answered any more. The first reason stays."""
        if self.ended is None:
            self.ended = error
            self.must_disconnect = True
            self.outbox.on_ended(error)
            self.presence.on_ended(error)

    # --- the connection ----------------------------------------------------------------------------------------------

    def on_connected(self, now: float) -> None:
        self.phase = Phase.OPENING
        self.must_disconnect = False
        self.last_close = None
        self._has_left = False
        self._decoder = _new_decoder()
        self._opened_at = self._heard_at = now
        self._has_progress = False
        self._why_lost = ""
        self._out += encode(self._hello)

    def on_connect_failed(self, now: float, sentence: str) -> None:
        if not self.was_welcomed:
            self.end(CannotConnect(sentence))
            return
        self.reconnect_at = self._backoff.next_attempt(now)

    def on_lost(self, now: float, sentence: str) -> None:
        """The connection is gone, by whoever's wish. `sentence` is the driver's, naming host and port."""
        was_ready = self.phase is Phase.READY
        self.phase = Phase.AWAY
        self._out.clear()
        self.outbox.on_lost()
        self.inbox.on_lost()
        self.presence.on_lost()
        self._pong_by = self._drain_at = self._proof_token = None
        self._is_ack_unproven = False
        if self.ended is not None:
            return
        if not self.was_welcomed and self.last_close is None:
            self.end(CannotConnect(f"{sentence}: {self._why_lost or 'it ended before HELLO was answered'}"))
            return
        if self._has_left:
            self.reconnect_at = now
            return
        if was_ready and (self._has_progress or now - self._welcomed_at >= self._settings.settled_s):
            self._backoff.reset()
        self.reconnect_at = self._backoff.next_attempt(now)
        self._close_if_idle()

    def _disconnect(self, why: str) -> None:
        self.must_disconnect = True
        self._why_lost = why

    def on_bytes(self, data: bytes, now: float) -> None:
        self._heard_at = now
        self._pong_by = None
        try:
            for frame in self._decoder.feed(data):
                self._on_frame(frame, now)
                if self.must_disconnect:
                    return
        except DecodeError as fault:
            self._out += encode(Close(fault.code, 0, str(fault)))
            self._disconnect(f"the server broke the protocol: {fault}")
            self._on_fault(ProtocolFault(f"the server broke the protocol: {fault}"))

    def _on_frame(self, frame: Frame, now: float) -> None:
        is_opening = self.phase is Phase.OPENING
        if not isinstance(frame, Close) and is_opening is not isinstance(frame, Welcome):
            raise DecodeError(f"{type(frame).__name__} {'before' if is_opening else 'after'} WELCOME")
        self._handlers[type(frame)](frame, now)

    def _on_fault(self, error: IrisError) -> None:
        self._faults += 1
        if not self.was_welcomed or self._faults >= _FAULTS_MAX:
            self.end(error)

    def _on_progress(self) -> None:
        self._has_progress = True
        self._faults = 0

    # --- frames ------------------------------------------------------------------------------------------------------

    def _on_welcome(self, frame: Welcome, now: float) -> None:
        if frame.version != VERSION:
            raise DecodeError(f"WELCOME names version {frame.version}, HELLO offered {VERSION} only")
        self.phase = Phase.READY
        self.was_welcomed = True
        self.region = frame.region
        self._welcomed_at = now
        self._clock_ahead_ms = frame.clock - now * 1000
        silent_s = frame.silent_ms_max / 1000
        self._ping_s = min(silent_s / 3 if silent_s else self._settings.ping_s_max, self._settings.ping_s_max)
        self.outbox.on_welcome(frame)
        self.presence.on_welcome(frame, self._out)

    def _on_deliver(self, frame: Deliver, now: float) -> None:
        self.inbox.on_deliver(frame)
        self._on_progress()

    def _on_confirm(self, frame: Confirm, now: float) -> None:
        outbox, level, copies = self.outbox, frame.level, frame.copies
        for first, last in frame.ranges:
            outbox.check_sequence(first)
            outbox.check_sequence(last)
            for sequence in range(first, last + 1):
                outbox.on_confirm(sequence, level, copies)
        self._on_progress()

    def _on_refused(self, frame: Refuse, now: float) -> None:
        self.outbox.on_refused(frame)
        self._on_progress()

    def _on_presence(self, frame: PresenceIs, now: float) -> None:
        self.presence.on_presence(frame)

    def _on_pong(self, frame: Pong, now: float) -> None:
        if frame.token == self._proof_token:
            self._is_ack_unproven = False
            self._proof_token = None

    def _on_drain(self, frame: Drain, now: float) -> None:
        self._drain_at = now + frame.wait_ms / 1000

    def _on_close(self, frame: Close, now: float) -> None:
        error = SessionRefused(frame.code, frame.wait_ms / 1000, frame.reason)
        self.last_close = error
        self._disconnect(f"the server closed it: {error}")
        if frame.wait_ms:
            self._backoff.wait_until(now + frame.wait_ms / 1000)
        if frame.code == Code.TAKEN_OVER:
            self.end(TakenOver(frame.code, frame.wait_ms / 1000, frame.reason))
        elif frame.code in _FINAL:
            self.end(error)
        elif frame.code in _FAULTS:
            self._on_fault(error)

    # --- time --------------------------------------------------------------------------------------------------------

    def next_deadline(self) -> Optional[float]:
        """When `on_timer` has something to do, at the latest. None: not before something else happens."""
        times = [self._closing_until] if self._closing_until is not None else []
        if self.phase is Phase.AWAY:
            times.append(self.reconnect_at)
        elif self.phase is Phase.OPENING:
            times.append(self._opened_at + self._settings.hello_s_max)
        else:
            times.append(self._ping_at() if self._pong_by is None else self._pong_by)
            if self._drain_at is not None:
                times.append(self._drain_at + (self._settings.drain_s_max if self.outbox.is_held else 0.0))
        return min(times, default=None)

    def _ping_at(self) -> float:
        return min(self._sent_at, self._heard_at) + self._ping_s

    def on_timer(self, now: float) -> None:
        """Does what is due at `now`. May be called at any time."""
        if self.ended is not None or self.must_disconnect:
            return
        if self.phase is Phase.OPENING and now >= self._opened_at + self._settings.hello_s_max:
            self._disconnect(f"HELLO was not answered within {self._settings.hello_s_max:g} s")
        elif self.phase is Phase.READY:
            self._keep_alive(now)
            self._drain(now)
        if self._closing_until is not None and now >= self._closing_until:
            self._leave("closed before everything was confirmed")
        self._close_if_idle()

    def _keep_alive(self, now: float) -> None:
        if self._pong_by is not None:
            if now >= self._pong_by:
                self._disconnect(f"a ping was not answered within {self._settings.answer_s_max:g} s")
        elif now >= self._ping_at():
            self._write_ping()
            self._pong_by = now + self._settings.answer_s_max

    def _drain(self, now: float) -> None:
        if self._drain_at is None or now < self._drain_at:
            return
        self.outbox.is_held = True
        if now >= self._drain_at + self._settings.drain_s_max:
            self._leave("")

    def _close_if_idle(self) -> None:
        # Without a connection nothing can be acknowledged, so only messages without an answer are worth waiting for.
        if self.is_closing and self.phase is not Phase.READY and not len(self.outbox):
            self.end(ClientClosed("the client is closed"))

    # --- bytes out ---------------------------------------------------------------------------------------------------

    def take_outgoing(self, now: float) -> bytes:
        """What is to be written now. The driver takes more only when it has written what it took before."""
        if self.phase is Phase.READY and not self.must_disconnect:
            if self.inbox.has_acknowledgements:
                self._write_acknowledgements()
            self.outbox.write_sends(self._out)
            if self.is_closing or self.outbox.is_held:
                self._leave_when_answered()
        if not self._out:
            return b""
        self._sent_at = now
        taken = bytes(self._out)
        self._out.clear()
        return taken

    def _write_acknowledgements(self) -> None:
        for frame in self.inbox.acknowledgement_frames():
            self._out += frame
        self._is_ack_unproven = True
        self._proof_token = None

    def _write_ping(self) -> int:
        self._ping_token += 1
        self._out += encode(Ping(self._ping_token))
        return self._ping_token

    def _leave_when_answered(self) -> None:
        if self.outbox.has_unanswered or (self.is_closing and len(self.outbox)):
            return
        if not self._is_ack_unproven:
            self._leave("the client is closed")
        elif self._proof_token is None:
            self._proof_token = self._write_ping()

    def _leave(self, sentence: str) -> None:
        """Ends this connection: for good when closing, else (drain) for another one at once."""
        if self.phase is Phase.READY:
            self._out += encode(Close(Code.NORMAL, 0, ""))
        if self.is_closing:
            self.end(ClientClosed(sentence))
            return
        self._disconnect("the server asked to connect elsewhere")
        self._has_left = True


def _new_decoder() -> FrameDecoder:
    return FrameDecoder(SERVER_FRAMES, _FRAME_BYTES_MAX, ignores_unknown=True)


def _hello(user: str, token: Union[str, bytes, None]) -> Hello:
    try:
        encode_user(user)
    except ValueError as wrong:
        raise SessionRefused(Code.BAD_USER, 0.0, str(wrong)) from None
    raw = token.encode("utf-8") if isinstance(token, str) else bytes(token or b"")
    if len(raw) > TOKEN_BYTES_MAX:
        raise ValueError(f"a token has at most {TOKEN_BYTES_MAX} bytes, this one {len(raw)}")
    return Hello(VERSION, VERSION, CAPABILITY_PRESENCE, user, raw, AGENT)


def prepare(to: str, content: Union[str, bytes, bytearray, memoryview]) -> Tuple[bytes, bytes]:
    """Recipient and body as they are sent. An id that no server takes is refused here: sent, it would cost the
    connection of everything else that is under way."""
    try:
        recipient = encode_user(to)
    except ValueError as wrong:
        raise Refused(Code.BAD_RECIPIENT, 0.0, str(wrong)) from None
    if isinstance(content, str):
        return recipient, content.encode("utf-8")
    if isinstance(content, (bytes, bytearray, memoryview)):
        return recipient, bytes(content)
    raise TypeError(f"a body is str or bytes, not {type(content).__name__}")
