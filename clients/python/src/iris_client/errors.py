"""What can go wrong, as exceptions.

Everything the library raises on its own account is an `IrisError`, except `TimeoutError` (an answer did not come in the
time the caller allowed) and `ValueError`/`TypeError` (an argument that cannot be meant). What the server said by a code
is a `ServerError` with `code`, `number` and `wait`.
"""

from __future__ import annotations

import uuid
from typing import Dict, Optional

from ._frames import code_name

__all__ = [
    "CannotConnect",
    "ClientClosed",
    "IrisError",
    "NotLoggedIn",
    "ProtocolFault",
    "QueueFull",
    "Refused",
    "ServerError",
    "SessionRefused",
    "TakenOver",
    "Unsupported",
]

_SENTENCES: Dict[str, str] = {
    "protocol_error": "the server could not decode what this client sent",
    "frame_too_large": "a frame was larger than the server takes",
    "version": "client and server share no protocol version",
    "bad_user": "the user id is not valid (1 to 255 bytes of UTF-8 without control characters)",
    "unauthorized": "the token is missing, invalid or expired",
    "taken_over": "the user logged in again elsewhere; this client stays out",
    "body_too_large": "the body is larger than the server takes",
    "bad_recipient": "the recipient's id is not valid (1 to 255 bytes of UTF-8 without control characters)",
    "bad_id": "the message id is no UUIDv7, too far ahead of the server's clock, or too old",
    "inbox_full": "the recipient's inbox is full",
    "busy": "a limit of the server was reached",
    "unavailable": "the nodes that own the user cannot be reached",
    "disk_full": "the server cannot store messages at present",
    "too_many_recipients": "too many recipients with unanswered or undelivered messages",
    "expired": "the message waited longer than the inbox keeps messages",
}


class IrisError(Exception):
    """The base of all errors of this library."""


class NotLoggedIn(IrisError):
    """A call that needs a session came before `login()`."""


class ClientClosed(IrisError):
    """The client was closed, by `close()` or at the end of the program."""


class Unsupported(IrisError):
    """What was asked for is not offered by this library or by this server."""


class QueueFull(IrisError):
    """The client's bounded queue had no room and the caller did not want to wait for it."""


class ProtocolFault(IrisError):
    """The server sent something that the protocol does not allow."""


class CannotConnect(IrisError, ConnectionError):
    """The first connection of `login()` could not be made, or ended before the server answered."""


class ServerError(IrisError):
    """Something the server said by a code.

    `code` is the stable name ("inbox_full"), `number` the code on the wire, `wait` the seconds after which it may be
    tried again (0.0: repeating is useless), `reason` the server's words.
    """

    def __init__(self, number: int, wait: float = 0.0, reason: str = "") -> None:
        self.number = number
        self.code = code_name(number)
        self.wait = wait
        self.reason = reason
        super().__init__(number, wait, reason)

    def __str__(self) -> str:
        sentence = f"{self.code}: {self.reason or _SENTENCES.get(self.code, 'the server gave no reason')}"
        return f"{sentence} (try again after {self.wait:g} s)" if self.wait > 0 else sentence


class Refused(ServerError):
    """A message was not taken. `id` is the message's: use it to send the message again after `wait`."""

    id: Optional[uuid.UUID] = None


class SessionRefused(ServerError):
    """The server does not accept this session ("unauthorized", "bad_user", "version", "protocol_error", ...)."""


class TakenOver(ServerError):
    """The user logged in again elsewhere. The client does not come back by itself."""

    def __init__(self, number: int = 8, wait: float = 0.0, reason: str = "") -> None:
        super().__init__(number, wait, reason)
