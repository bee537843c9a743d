"""The presence part of a session: lookups that wait for their answer, and watches with their changes.

Owns the request numbers. In: PRESENCE. Out: LOOKUP, WATCH and UNWATCH frames. Invariant: a lookup without an answer and
every watch are asked again on the next connection.
"""

from __future__ import annotations

from collections import deque
from typing import Deque, Dict, Optional

from ._frames import Lookup, PresenceIs, Unwatch, Watch, Welcome
from ._protocol import CAPABILITY_PRESENCE, encode
from .errors import Unsupported
from .message import Presence

# An application that does not read its changes loses the oldest ones; the newest is the one that counts.
CHANGES_MAX = 64

_STATES = ("offline", "online", "unknown")


class Asking:
    """A lookup or watch of one user. `on_answer` and `on_ended` are for the driver, which has somebody waiting."""

    def __init__(self, user: str) -> None:
        self.user = user
        self.request = 0
        self.presence: Optional[Presence] = None
        self.error: Optional[Exception] = None

    def on_answer(self, presence: Presence) -> None:
        self.presence = presence
        self.on_changed()

    def on_ended(self, error: Exception) -> None:
        self.error = error
        self.on_changed()

    def on_changed(self) -> None:
        """For the driver."""


class Watching(Asking):
    """A watch. `changes` holds what was not read yet, the first answer not among them."""

    def __init__(self, user: str) -> None:
        super().__init__(user)
        self.changes: Deque[Presence] = deque(maxlen=CHANGES_MAX)

    def on_answer(self, presence: Presence) -> None:
        # After a reconnect the first answer often says what is known already.
        if self.presence is not None and presence != self.presence:
            self.changes.append(presence)
        super().on_answer(presence)


class PresenceDesk:
    """Who asked what."""

    def __init__(self) -> None:
        self._is_offered: Optional[bool] = None
        self._last_request = 0
        self._lookups: Dict[int, Asking] = {}
        self._watches: Dict[int, Watching] = {}
        self._watched: Dict[str, Watching] = {}

    def watching(self, user: str) -> Optional[Watching]:
        return self._watched.get(user)

    def on_welcome(self, frame: Welcome, out: bytearray) -> None:
        self._is_offered = bool(frame.capabilities & CAPABILITY_PRESENCE)
        if not self._is_offered:
            self.on_ended(Unsupported("this server does not tell who is online (no presence in WELCOME)"))
            return
        for asking in self._lookups.values():
            out += encode(Lookup(asking.request, asking.user))
        for asking in self._watches.values():
            out += encode(Watch(asking.request, asking.user))

    def on_lost(self) -> None:
        self._is_offered = None

    def lookup(self, asking: Asking, out: bytearray) -> None:
        asking.request = self._next_request()
        self._lookups[asking.request] = asking
        self._ask(asking, encode(Lookup(asking.request, asking.user)), out)

    def watch(self, watching: Watching, out: bytearray) -> None:
        watching.request = self._next_request()
        self._watches[watching.request] = watching
        self._watched[watching.user] = watching
        self._ask(watching, encode(Watch(watching.request, watching.user)), out)

    def _ask(self, asking: Asking, frame: bytes, out: bytearray) -> None:
        if self._is_offered:
            out += frame
        elif self._is_offered is False:
            self._forget(asking)
            asking.on_ended(Unsupported("this server does not tell who is online (no presence in WELCOME)"))

    def unwatch(self, user: str, error: Exception, out: bytearray) -> None:
        watching = self._watched.get(user)
        if watching is None:
            return
        self._forget(watching)
        if self._is_offered:
            out += encode(Unwatch(user))
        watching.on_ended(error)

    def abandon(self, asking: Asking) -> None:
        """Nobody waits for this answer any more."""
        self._lookups.pop(asking.request, None)

    def on_presence(self, frame: PresenceIs) -> None:
        # Answers to what was abandoned, or changes on their way when UNWATCH was sent, find nobody.
        asking = self._lookups.pop(frame.request, None) or self._watches.get(frame.request)
        if asking is not None and asking.user == frame.user:
            asking.on_answer(Presence(frame.user, _STATES[frame.state], frame.last_seen))

    def on_ended(self, error: Exception) -> None:
        for asking in [*self._lookups.values(), *self._watches.values()]:
            self._forget(asking)
            asking.on_ended(error)

    def _forget(self, asking: Asking) -> None:
        self._lookups.pop(asking.request, None)
        if self._watches.pop(asking.request, None) is not None:
            del self._watched[asking.user]

    def _next_request(self) -> int:
        while True:
            self._last_request = self._last_request % 0xFFFF_FFFF + 1
            if self._last_request not in self._lookups and self._last_request not in self._watches:
                return self._last_request
