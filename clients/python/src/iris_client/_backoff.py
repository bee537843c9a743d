"""When to connect again: exponential backoff with jitter, and the time that a server asked to wait."""

from __future__ import annotations

import random
from typing import Optional


class Backoff:
    """Times are seconds of the driver's clock. A delay lies between half and all of `min * 2^attempts`, up to `max`."""

    def __init__(self, delay_s_min: float, delay_s_max: float, rng: random.Random) -> None:
        self._delay_s_min = delay_s_min
        self._delay_s_max = delay_s_max
        self._rng = rng
        self._attempts = 0
        self._wait_until: Optional[float] = None

    def wait_until(self, time: float) -> None:
        """The server asked not to come back sooner. Holds for the next attempt."""
        self._wait_until = time

    def reset(self) -> None:
        self._attempts = 0

    def next_attempt(self, now: float) -> float:
        """When to try next."""
        longest = min(self._delay_s_max, self._delay_s_min * 2.0 ** min(self._attempts, 30))
        self._attempts += 1
        attempt_at = now + longest * self._rng.uniform(0.5, 1.0)
        if self._wait_until is not None:
            # Many clients were told the same time: they spread behind it, not before.
            spread = max(0.0, self._wait_until - now) * self._rng.uniform(0.0, 0.1)
            attempt_at = max(attempt_at, self._wait_until + spread)
            self._wait_until = None
        return attempt_at
