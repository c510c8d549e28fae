"""Waiting for what another process does: the only place in the tests that sleeps, and always towards a condition."""

import asyncio
import time
from collections.abc import Awaitable, Callable

STEP_SECONDS = 0.05


def wait_until(condition: Callable[[], bool], what: str, *, seconds: float) -> None:
    """Return as soon as `condition` holds; fail naming `what` when it does not within `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s"
        time.sleep(STEP_SECONDS)


async def until(condition: Callable[[], Awaitable[bool]], what: str, *, seconds: float) -> None:
    """`wait_until` for a condition that is awaited, in the test's own loop."""
    deadline = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s"
        await asyncio.sleep(STEP_SECONDS)
