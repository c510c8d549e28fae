"""Work that completes although its waiter is cancelled."""

import asyncio

import pytest

from api.migrations.runtime.cancellation import to_the_end


async def test_it_is_done_however_often_its_waiter_is_cancelled() -> None:
    """The waiter is cancelled after the work is done."""
    may_end, done = asyncio.Event(), []

    async def work() -> None:
        await may_end.wait()
        done.append("work")

    waiter = asyncio.create_task(to_the_end(work()))
    for _ in range(5):
        await asyncio.wait({waiter}, timeout=0.001)
        waiter.cancel()
    await asyncio.wait({waiter}, timeout=0.001)
    assert (waiter.done(), done) == (False, [])
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    assert done == ["work"]


async def test_its_error_is_told() -> None:
    """The waiter gets the error of the work."""

    async def work() -> None:
        raise ValueError("boom")

    with pytest.raises(ValueError, match="boom"):
        await to_the_end(work())
