"""The codec of the Iris client protocol, version 1 (docs/protocol.md): frames as tuples, to and from bytes.

In: frames to encode, segments of a stream cut anywhere. Out: bytes, frames, `DecodeError`. Invariant: decoding what was
encoded gives an equal frame. It knows both directions, so that tests can play the server; it does not know what a frame
means (`_engine`).
"""

from __future__ import annotations

import struct
import unicodedata
from typing import Callable, Dict, Iterator, List, Sequence, Tuple, Type, Union

from ._frames import (
    Ack,
    Close,
    Code,
    Confirm,
    DecodeError,
    Deliver,
    Drain,
    Frame,
    Hello,
    Lookup,
    Ping,
    Pong,
    PresenceIs,
    Ranges,
    Refuse,
    Send,
    Unwatch,
    Watch,
    Welcome,
)

VERSION = 1
MAGIC = b"IRIS"
CAPABILITY_PRESENCE = 1
RANGES_MAX = 1024
TOKEN_BYTES_MAX = 3000
# Length, type, sequence, id and the recipient's length: what a SEND takes besides recipient and body.
SEND_OVERHEAD_BYTES = 1 + 8 + 16 + 1


class _Fields:
    """Takes the fields of one payload, front to back."""

    def __init__(self, payload: bytes) -> None:
        self.payload = payload
        self.at = 0

    def take(self, count: int) -> bytes:
        taken = self.payload[self.at : self.at + count]
        if len(taken) != count:
            raise DecodeError("the frame ends within a field")
        self.at += count
        return taken

    def number(self, count: int) -> int:
        return int.from_bytes(self.take(count), "big")

    def str8(self) -> str:
        return _text(self.take(self.number(1)))

    def bytes16(self) -> bytes:
        return self.take(self.number(2))

    def rest(self) -> bytes:
        return self.take(len(self.payload) - self.at)

    def end(self) -> None:
        if self.at != len(self.payload):
            raise DecodeError("there are bytes behind the last field")


def _text(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise DecodeError("a text is not UTF-8") from None


def encode_user(user: str) -> bytes:
    """A user id as bytes; `ValueError` names what is wrong with it."""
    if not isinstance(user, str):
        raise TypeError(f"a user id is a str, not {type(user).__name__}")
    try:
        raw = user.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("the user id cannot be written as UTF-8") from None
    if not 1 <= len(raw) <= 255:
        raise ValueError(f"a user id has 1 to 255 bytes, this one {len(raw)}")
    if not user.isprintable() and any(unicodedata.category(character) == "Cc" for character in user):
        raise ValueError("a user id has no control characters")
    return raw


def _str8(text: str) -> bytes:
    raw = text.encode("utf-8")
    if len(raw) > 255:
        raise ValueError(f"a str8 has at most 255 bytes, this one {len(raw)}")
    return bytes((len(raw),)) + raw


def ranges_of(sequences: Sequence[int]) -> List[Tuple[int, int]]:
    """Sequences in any order, with repeats, as ascending ranges without overlap."""
    ranges: List[Tuple[int, int]] = []
    first = last = -2
    for sequence in sorted(sequences):
        if sequence > last + 1:
            if first >= 0:
                ranges.append((first, last))
            first = sequence
        last = sequence
    if first >= 0:
        ranges.append((first, last))
    return ranges


def _encode_ranges(ranges: Ranges) -> bytes:
    if not 1 <= len(ranges) <= RANGES_MAX:
        raise ValueError(f"a frame has 1 to {RANGES_MAX} ranges, this one {len(ranges)}")
    return b"".join(struct.pack(">QQ", first, last) for first, last in ranges)


def _decode_ranges(raw: bytes) -> Ranges:
    if not raw or len(raw) % 16 or len(raw) > 16 * RANGES_MAX:
        raise DecodeError(f"a frame has 1 to {RANGES_MAX} whole ranges")
    numbers = struct.unpack(f">{len(raw) // 8}Q", raw)
    previous = -1
    for number, bound in zip(numbers[::2], numbers[1::2]):
        if number <= previous or bound < number:
            raise DecodeError("ranges ascend without overlap")
        previous = bound
    return tuple(zip(numbers[::2], numbers[1::2]))


def encode_send(sequence: int, id: bytes, recipient: bytes, body: bytes) -> bytes:
    """A whole SEND frame. Apart from `encode`, because this one is sent by the thousand."""
    length = SEND_OVERHEAD_BYTES + len(recipient) + len(body)
    head = _SEND_HEAD.pack(length, 0x02, sequence, id, len(recipient))
    return b"".join((head, recipient, body))


_SEND_HEAD = struct.Struct(">IBQ16sB")
_DELIVER_HEAD = struct.Struct(">Q16sQB")


def _encode_hello(frame: Hello) -> bytes:
    head = MAGIC + struct.pack(">BBQ", frame.version_min, frame.version_max, frame.capabilities)
    token = struct.pack(">H", len(frame.token)) + frame.token
    return head + _str8(frame.user) + token + _str8(frame.agent)


def _decode_hello(payload: bytes) -> Hello:
    fields = _Fields(payload)
    if fields.take(4) != MAGIC:
        raise DecodeError("HELLO does not begin with IRIS")
    hello = Hello(
        fields.number(1), fields.number(1), fields.number(8), fields.str8(), fields.bytes16(), fields.str8()
    )
    if len(hello.token) > TOKEN_BYTES_MAX:
        raise DecodeError(f"a token has at most {TOKEN_BYTES_MAX} bytes")
    return hello


def _encode_payload_send(frame: Send) -> bytes:
    return struct.pack(">Q16s", frame.sequence, frame.id) + _str8(frame.recipient) + frame.body


def _decode_send(payload: bytes) -> Send:
    fields = _Fields(payload)
    return Send(fields.number(8), fields.take(16), fields.str8(), fields.rest())


def _encode_asking(frame: Union[Lookup, Watch]) -> bytes:
    return struct.pack(">I", frame.request) + _str8(frame.user)


def _decode_lookup(payload: bytes) -> Lookup:
    fields = _Fields(payload)
    frame = Lookup(fields.number(4), fields.str8())
    fields.end()
    return frame


def _decode_watch(payload: bytes) -> Watch:
    return Watch(*_decode_lookup(payload))


def _decode_unwatch(payload: bytes) -> Unwatch:
    fields = _Fields(payload)
    frame = Unwatch(fields.str8())
    fields.end()
    return frame


def _decode_token(payload: bytes) -> int:
    fields = _Fields(payload)
    token = fields.number(8)
    fields.end()
    return token


def _decode_close(payload: bytes) -> Close:
    fields = _Fields(payload)
    return Close(fields.number(2), fields.number(4), _text(fields.rest()))


_WELCOME_NUMBERS = struct.Struct(">IIIIIQ")


def _encode_welcome(frame: Welcome) -> bytes:
    head = struct.pack(">BQ", frame.version, frame.capabilities)
    return head + _str8(frame.region) + _str8(frame.node) + _WELCOME_NUMBERS.pack(*frame[4:])


def _decode_welcome(payload: bytes) -> Welcome:
    fields = _Fields(payload)
    version, capabilities, region, node = fields.number(1), fields.number(8), fields.str8(), fields.str8()
    numbers = _WELCOME_NUMBERS.unpack(fields.take(_WELCOME_NUMBERS.size))
    return Welcome(version, capabilities, region, node, *numbers)


def _encode_deliver(frame: Deliver) -> bytes:
    return struct.pack(">Q16sQ", frame.sequence, frame.id, frame.sent_at) + _str8(frame.sender) + frame.body


def _decode_deliver(payload: bytes) -> Deliver:
    if len(payload) < 33:
        raise DecodeError("the frame ends within a field")
    sequence, id, sent_at, length = _DELIVER_HEAD.unpack_from(payload)
    if len(payload) < 33 + length:
        raise DecodeError("the frame ends within a field")
    return Deliver(sequence, id, sent_at, _text(payload[33 : 33 + length]), payload[33 + length :])


def _decode_confirm(payload: bytes) -> Confirm:
    if len(payload) < 2:
        raise DecodeError("the frame ends within a field")
    if payload[0] not in (1, 2):
        raise DecodeError(f"CONFIRM has no level {payload[0]}")
    return Confirm(payload[0], payload[1], _decode_ranges(payload[2:]))


def _decode_refused(payload: bytes) -> Refuse:
    fields = _Fields(payload)
    return Refuse(fields.number(8), fields.number(2), fields.number(4), _text(fields.rest()))


def _encode_presence(frame: PresenceIs) -> bytes:
    return struct.pack(">IBQ", frame.request, frame.state, frame.last_seen) + _str8(frame.user)


def _decode_presence(payload: bytes) -> PresenceIs:
    fields = _Fields(payload)
    frame = PresenceIs(fields.number(4), fields.number(1), fields.number(8), fields.str8())
    fields.end()
    if frame.state > 2:
        raise DecodeError(f"PRESENCE has no state {frame.state}")
    return frame


def _decode_drain(payload: bytes) -> Drain:
    fields = _Fields(payload)
    frame = Drain(fields.number(4))
    fields.end()
    return frame


def _encode_reasoned_close(frame: Close) -> bytes:
    return struct.pack(">HI", frame.code, frame.wait_ms) + frame.reason.encode("utf-8")


def _encode_refused(frame: Refuse) -> bytes:
    return struct.pack(">QHI", frame.sequence, frame.code, frame.wait_ms) + frame.reason.encode("utf-8")


Decoders = Dict[int, Callable[[bytes], Frame]]

CLIENT_FRAMES: Decoders = {
    0x01: _decode_hello,
    0x02: _decode_send,
    0x03: lambda payload: Ack(_decode_ranges(payload)),
    0x04: _decode_lookup,
    0x05: _decode_watch,
    0x06: _decode_unwatch,
    0x07: lambda payload: Ping(_decode_token(payload)),
    0x08: _decode_close,
}

SERVER_FRAMES: Decoders = {
    0x08: _decode_close,
    0x81: _decode_welcome,
    0x82: _decode_deliver,
    0x83: _decode_confirm,
    0x84: _decode_refused,
    0x85: _decode_presence,
    0x86: lambda payload: Pong(_decode_token(payload)),
    0x87: _decode_drain,
}

_ENCODERS: Dict[Type[Frame], Tuple[int, Callable[..., bytes]]] = {
    Hello: (0x01, _encode_hello),
    Send: (0x02, _encode_payload_send),
    Ack: (0x03, lambda frame: _encode_ranges(frame.ranges)),
    Lookup: (0x04, _encode_asking),
    Watch: (0x05, _encode_asking),
    Unwatch: (0x06, lambda frame: _str8(frame.user)),
    Ping: (0x07, lambda frame: struct.pack(">Q", frame.token)),
    Close: (0x08, _encode_reasoned_close),
    Welcome: (0x81, _encode_welcome),
    Deliver: (0x82, _encode_deliver),
    Confirm: (0x83, lambda frame: bytes((frame.level, frame.copies)) + _encode_ranges(frame.ranges)),
    Refuse: (0x84, _encode_refused),
    PresenceIs: (0x85, _encode_presence),
    Pong: (0x86, lambda frame: struct.pack(">Q", frame.token)),
    Drain: (0x87, lambda frame: struct.pack(">I", frame.wait_ms)),
}


def encode(frame: Frame) -> bytes:
    """A whole frame, its length in front."""
    type_number, encoder = _ENCODERS[type(frame)]
    payload = encoder(frame)
    return struct.pack(">IB", 1 + len(payload), type_number) + payload


class FrameDecoder:
    """Frames out of a stream that is cut anywhere. One for each connection and direction."""

    def __init__(self, decoders: Decoders, frame_bytes_max: int, ignores_unknown: bool) -> None:
        self.frame_bytes_max = frame_bytes_max
        self._decoders = decoders
        self._ignores_unknown = ignores_unknown
        self._segments: List[bytes] = []
        self._held = 0
        self._needed = 4

    def feed(self, segment: bytes) -> Iterator[Frame]:
        """The frames that are complete now. What stands before a fault is yielded before `DecodeError` is raised."""
        self._segments.append(segment)
        self._held += len(segment)
        # Joining only when a frame can be complete keeps a large frame in many small segments linear.
        if self._held < self._needed:
            return
        buffer = b"".join(self._segments)
        at = 0
        self._needed = 4
        while len(buffer) - at >= 4:
            length = int.from_bytes(buffer[at : at + 4], "big")
            self._check_length(length)
            if len(buffer) - at < 4 + length:
                self._needed = 4 + length
                break
            decoder = self._decoders.get(buffer[at + 4])
            if decoder is not None:
                yield decoder(buffer[at + 5 : at + 4 + length])
            elif not self._ignores_unknown:
                raise DecodeError(f"there is no frame type {buffer[at + 4]:#04x}")
            at += 4 + length
        self._segments = [buffer[at:]]
        self._held = len(buffer) - at

    def _check_length(self, length: int) -> None:
        if length == 0:
            raise DecodeError("a frame's length counts its type, so it is at least 1")
        if length > self.frame_bytes_max:
            raise DecodeError(f"a frame of {length} bytes, allowed are {self.frame_bytes_max}", Code.FRAME_TOO_LARGE)
