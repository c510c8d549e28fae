"""Work that completes although its waiter is cancelled."""

import asyncio

import pytest

from api.migrations.runtime.cancellation import to_the_end


async def test_work_completes_however_often_its_waiter_is_cancelled() -> None:
    """The waiter is cancelled five times: the work completes, and only then the waiter's CancelledError is raised."""
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


async def test_the_waiter_gets_the_error_of_the_work() -> None:
    """The work raises an error: the waiter gets the same error."""

    async def work() -> None:
        raise ValueError("boom")

    with pytest.raises(ValueError, match="boom"):
        await to_the_end(work())
