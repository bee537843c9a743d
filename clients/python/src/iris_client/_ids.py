"""Message ids: UUID version 7 (RFC 9562, section 5.7), strictly increasing in the order of sending.

Owns the last id. In: the server's clock in ms. Invariant: every new id is larger than all made or noted before.
"""

from __future__ import annotations

import random
import uuid
from typing import Union

# The bits behind the time that count: 12 before the variant (rand_a), 62 behind it (rand_b).
_TAIL_BITS = 74
_TAIL_MAX = (1 << _TAIL_BITS) - 1
_RAND_B_MAX = (1 << 62) - 1
# Further ahead than this the server refuses an id, so ids must not be made to follow one (id_ahead_ms_max).
AHEAD_MS_MAX = 60_000


def id_bytes(id: Union[uuid.UUID, str, bytes]) -> bytes:
    """What the application names a message with, as 16 bytes. Whether it is a UUIDv7 is for the server to judge."""
    if isinstance(id, uuid.UUID):
        return id.bytes
    if isinstance(id, str):
        return uuid.UUID(id).bytes
    if isinstance(id, (bytes, bytearray, memoryview)):
        raw = bytes(id)
        if len(raw) != 16:
            raise ValueError(f"a message id has 16 bytes, this one {len(raw)}")
        return raw
    raise TypeError(f"a message id is a uuid.UUID, str or 16 bytes, not {type(id).__name__}")


class IdSource:
    """Makes the ids of one user."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._time_ms = 0
        self._tail = 0

    def next_id(self, clock_ms: int) -> bytes:
        """A new id: the larger of the server's clock and the last id's time; within one ms the bits behind count up."""
        if clock_ms > self._time_ms:
            self._time_ms = clock_ms
            # The top bit stays clear, so that counting up within the ms has room.
            self._tail = self._rng.getrandbits(_TAIL_BITS - 1)
        else:
            self._tail += 1 + self._rng.getrandbits(32)
            if self._tail > _TAIL_MAX:
                self._time_ms += 1
                self._tail = self._rng.getrandbits(_TAIL_BITS - 1)
        rand_a, rand_b = self._tail >> 62, self._tail & _RAND_B_MAX
        number = self._time_ms << 80 | 7 << 76 | rand_a << 64 | 2 << 62 | rand_b
        return number.to_bytes(16, "big")

    def note(self, id: bytes, clock_ms: int) -> None:
        """The application chose an id itself: the next ones follow it, unless the server would refuse them for it."""
        number = int.from_bytes(id, "big")
        time_ms, tail = number >> 80, (number >> 64 & 0xFFF) << 62 | number & _RAND_B_MAX
        is_version_7 = number >> 76 & 0xF == 7 and number >> 62 & 3 == 2
        if is_version_7 and time_ms <= clock_ms + AHEAD_MS_MAX and (time_ms, tail) > (self._time_ms, self._tail):
            self._time_ms, self._tail = time_ms, tail
