"""Waits for what another process does: the only place in the tests that sleeps, and always for a condition."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from tests.support.pace import scaled

STEP_SECONDS, STEADY_STEP_SECONDS, LONGEST_STEP_SECONDS = 0.05, 0.2, 0.5
FOREVER_SECONDS = scaled(60)
"""No operation takes this long on this machine: a wait of this length means a hang."""


def wait_until(condition: Callable[[], bool], what: str, *, seconds: float = 0) -> None:
    """Return as soon as `condition` holds; fail naming `what` if it does not within `FOREVER_SECONDS`.

    `seconds` makes the limit longer, never shorter: a wait that ends early says nothing about the condition.
    """
    limit = Limit(what, seconds)
    while not condition():
        time.sleep(limit.pause())


async def until(condition: Callable[[], Awaitable[bool]], what: str, *, seconds: float = 0) -> None:
    """Wait as `wait_until` does for a condition that is awaited, in the test's own loop."""
    limit = Limit(what, seconds)
    while not await condition():
        pause = limit.pause()
        await asyncio.sleep(pause)


class Limit:
    """The end of one wait, and the pause between two checks."""

    def __init__(self, what: str, seconds: float) -> None:
        self._what = what
        self._seconds = max(seconds, FOREVER_SECONDS)
        self._began = self._looked = time.monotonic()

    def pause(self) -> float:
        """Return the next pause: as long as the check took or a tenth of the wait so far, whichever is longer.

        A check slows the processes that it checks.

        Raises:
            AssertionError: the time is up.
        """
        now = time.monotonic()
        assert now < self._began + self._seconds, f"{self._what}: not within {self._seconds:g} s"
        longer = max(now - self._looked, min((now - self._began) / 10, STEADY_STEP_SECONDS))
        pause = min(max(STEP_SECONDS, longer), LONGEST_STEP_SECONDS)
        self._looked = now + pause
        return pause
