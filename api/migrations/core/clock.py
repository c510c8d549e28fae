"""A clock that tests can replace, a deadline, jitter and backoff."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass
from typing import Protocol


class Clock(Protocol):
    """The time, as the waiting loop uses it."""

    def monotonic(self) -> float:
        """Return the seconds since an arbitrary start; they never decrease."""

    async def sleep(self, seconds: float) -> None:
        """Return after `seconds`."""


class SystemClock:
    """The clock of this machine."""

    def monotonic(self) -> float:
        """Return `time.monotonic()`."""
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
        """Return the deadline `seconds` after `now`."""
        return cls(now + seconds, seconds)

    def remaining(self, now: float) -> float:
        """Return the seconds left at `now`, never negative."""
        return max(0.0, self.at - now)

    def passed(self, now: float) -> bool:
        """Whether the deadline has passed at `now`."""
        return now >= self.at


def jittered(seconds: float) -> float:
    """Return `seconds` plus or minus up to half, so that instances that start together do not poll together."""
    return seconds * random.uniform(0.5, 1.5)  # noqa: S311 - spreads load, guards nothing


@dataclass(frozen=True)
class Backoff:
    """Exponential backoff with full jitter; durations in seconds.

    Source: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """

    first_seconds: float = 0.2
    longest_seconds: float = 3.0

    def delay(self, failures: int) -> float:
        """Return the seconds to wait after a number of consecutive failures (at least 1)."""
        cap = min(self.longest_seconds, self.first_seconds * 2.0 ** min(failures, 16))
        return random.uniform(self.first_seconds / 2, cap)  # noqa: S311 - spreads load, guards nothing
