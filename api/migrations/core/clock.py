"""Time as a value: a clock that can be replaced, a deadline, and a jittered interval."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass
from typing import Protocol


class Clock(Protocol):
    """What the waiting loop needs of time."""

    def monotonic(self) -> float:
        """Seconds since an arbitrary start; never goes backwards."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after `seconds`."""
        ...


class SystemClock:
    """The clock of this machine."""

    def monotonic(self) -> float:
        """Seconds of `time.monotonic`."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Sleep in this thread's event loop."""
        await asyncio.sleep(seconds)


@dataclass(frozen=True)
class Deadline:
    """A moment on the monotonic clock, and the budget in seconds that led to it."""

    at: float
    budget_seconds: float

    @classmethod
    def after(cls, seconds: float, now: float) -> Deadline:
        """The deadline `seconds` after `now`."""
        return cls(now + seconds, seconds)

    def remaining(self, now: float) -> float:
        """Seconds left at `now`, never negative."""
        return max(0.0, self.at - now)

    def passed(self, now: float) -> bool:
        """Whether the budget is used up at `now`."""
        return now >= self.at


def jittered(seconds: float) -> float:
    """`seconds`, give or take half: instances that start together must not poll together."""
    return seconds * random.uniform(0.5, 1.5)  # noqa: S311 - spreads load, guards nothing


@dataclass(frozen=True)
class Backoff:
    """Exponential backoff with full jitter; durations in seconds.

    Full jitter (a draw between zero and the cap) is what empties a stampede fastest:
    "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """

    first_seconds: float = 0.2
    longest_seconds: float = 3.0

    def delay(self, failures: int) -> float:
        """Seconds to wait after the given number of failures in a row (at least 1)."""
        cap = min(self.longest_seconds, self.first_seconds * 2.0 ** min(failures, 16))
        return random.uniform(self.first_seconds / 2, cap)  # noqa: S311 - spreads load, guards nothing
