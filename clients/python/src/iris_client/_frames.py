"""The frames of the Iris client protocol, version 1, as tuples, and the codes of CLOSE and REFUSED.

Field names are those of docs/protocol.md. How they become bytes is `_protocol`'s.
"""

from __future__ import annotations

import enum
from typing import NamedTuple, Tuple, Union

Ranges = Tuple[Tuple[int, int], ...]


class Code(enum.IntEnum):
    """Codes of CLOSE and REFUSED. Stable, never reused."""

    NORMAL = 0
    PROTOCOL_ERROR = 1
    FRAME_TOO_LARGE = 2
    VERSION = 3
    BAD_USER = 4
    UNAUTHORIZED = 5
    HELLO_TIMEOUT = 6
    SILENT = 7
    TAKEN_OVER = 8
    DRAINING = 9
    WINDOW_EXCEEDED = 10
    SLOW_READER = 11
    INTERNAL = 12
    BODY_TOO_LARGE = 20
    BAD_RECIPIENT = 21
    BAD_ID = 22
    INBOX_FULL = 23
    BUSY = 24
    UNAVAILABLE = 25
    DISK_FULL = 26
    TOO_MANY_RECIPIENTS = 27
    EXPIRED = 28


def code_name(number: int) -> str:
    """The stable name of a code; a number of a later version becomes "code_<number>"."""
    try:
        return Code(number).name.lower()
    except ValueError:
        return f"code_{number}"


class DecodeError(Exception):
    """The other side sent bytes that are no frame. `code` says how CLOSE names it."""

    def __init__(self, sentence: str, code: Code = Code.PROTOCOL_ERROR) -> None:
        super().__init__(sentence)
        self.code = code


class Hello(NamedTuple):
    version_min: int
    version_max: int
    capabilities: int
    user: str
    token: bytes
    agent: str


class Send(NamedTuple):
    sequence: int
    id: bytes
    recipient: str
    body: bytes


class Ack(NamedTuple):
    ranges: Ranges


class Lookup(NamedTuple):
    request: int
    user: str


class Watch(NamedTuple):
    request: int
    user: str


class Unwatch(NamedTuple):
    user: str


class Ping(NamedTuple):
    token: int


class Close(NamedTuple):
    code: int
    wait_ms: int
    reason: str


class Welcome(NamedTuple):
    version: int
    capabilities: int
    region: str
    node: str
    window_messages: int
    window_bytes: int
    body_bytes_max: int
    frame_bytes_max: int
    silent_ms_max: int
    clock: int


class Deliver(NamedTuple):
    sequence: int
    id: bytes
    sent_at: int
    sender: str
    body: bytes


class Confirm(NamedTuple):
    level: int
    copies: int
    ranges: Ranges


class Refuse(NamedTuple):
    """REFUSED; the word itself is the exception's."""

    sequence: int
    code: int
    wait_ms: int
    reason: str


class PresenceIs(NamedTuple):
    """PRESENCE; the word itself is the answer's that the application sees."""

    request: int
    state: int
    last_seen: int
    user: str


class Pong(NamedTuple):
    token: int


class Drain(NamedTuple):
    wait_ms: int


Frame = Union[
    Hello, Send, Ack, Lookup, Watch, Unwatch, Ping, Close, Welcome, Deliver, Confirm, Refuse, PresenceIs, Pong, Drain
]
