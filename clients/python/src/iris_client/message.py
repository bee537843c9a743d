"""What the application sees of messages and users: `Message`, `Receipt`, `Presence`."""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta, timezone
from typing import Callable, NamedTuple, Optional

from ._inbox import Delivery

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def time_of(milliseconds: int) -> datetime:
    """A time of the wire as an aware UTC datetime; what lies beyond the calendar becomes its end."""
    try:
        return _EPOCH + timedelta(milliseconds=milliseconds)
    except OverflowError:
        return datetime.max.replace(tzinfo=timezone.utc)


class Receipt:
    """What is known of a confirmed message.

    `level` is "stored" (`copies` nodes have it on disk) or "delivered" (the recipient's client acknowledged it). A
    "stored" becomes "delivered" by itself when the server says so later, which it does only as long as the connection
    lasts. `copies` is what came with "stored", 0 if the message was delivered at once.
    """

    __slots__ = ("_id", "copies", "level")

    def __init__(self, id: bytes, level: str, copies: int) -> None:
        self._id = id
        self.level = level
        self.copies = copies

    @property
    def id(self) -> uuid.UUID:
        return uuid.UUID(bytes=self._id)

    def __repr__(self) -> str:
        return f"Receipt(id={str(self.id)!r}, level={self.level!r}, copies={self.copies})"


class Message:
    """A message that was received.

    `late` says that a later message of the same sender was handed out before (possible only where the operator chose
    `copies_min < copies`).
    """

    __slots__ = ("_acknowledge", "_delivery", "body", "late", "sender", "sent_at_ms")

    def __init__(self, delivery: Delivery, late: bool, acknowledge: Callable[[Delivery], None]) -> None:
        self._delivery = delivery
        self._acknowledge = acknowledge
        self.sender = delivery.sender
        self.sent_at_ms = delivery.sent_at_ms
        self.body = delivery.body
        self.late = late

    @property
    def id(self) -> uuid.UUID:
        return uuid.UUID(bytes=self._delivery.id)

    @property
    def sent_at(self) -> datetime:
        """When the sender's node took the message, by the server's clock (UTC)."""
        return time_of(self.sent_at_ms)

    @property
    def text(self) -> str:
        """The body as UTF-8; `UnicodeDecodeError` if it is none."""
        return self.body.decode("utf-8")

    def acknowledge(self) -> None:
        """Tell the server that the message was taken. Never blocks; doing it twice is harmless."""
        self._acknowledge(self._delivery)

    def __repr__(self) -> str:
        return f"Message(id={str(self.id)!r}, sender={self.sender!r}, body_bytes={len(self.body)}, late={self.late})"


class Presence(NamedTuple):
    """Where a user is: `state` is "online", "offline" or "unknown" (the user's node cannot be reached)."""

    user: str
    state: str
    last_seen_ms: int

    @property
    def online(self) -> bool:
        return self.state == "online"

    @property
    def last_seen(self) -> Optional[datetime]:
        """When the user was last seen to leave (UTC); None if never seen, or online now."""
        return time_of(self.last_seen_ms) if self.last_seen_ms else None
