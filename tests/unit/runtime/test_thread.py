"""The migration thread reports its outcome, can be cancelled at any time, and is joined within a time limit."""

import asyncio
import sys
import threading
from collections.abc import Awaitable, Callable

import pytest

from api.migrations.errors import WaitTimeout
from api.migrations.runtime.thread import MigrationThread, start_blocking, wait_on_loop
from tests.support.waiting import FOREVER_SECONDS


class Stuck:
    """Work that reports its begin and does not end by itself."""

    def __init__(self) -> None:
        self.began = threading.Event()
        self.undone = threading.Event()

    async def __call__(self) -> None:
        """Wait for ever, and undo on the way out."""
        self.began.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.undone.set()


def started(work: Callable[[], Awaitable[None]]) -> MigrationThread:
    """Return a thread that runs `work`; if that is stuck, it has begun."""
    thread = MigrationThread(work, "worker")
    thread.start()
    assert not isinstance(work, Stuck) or work.began.wait(FOREVER_SECONDS)
    return thread


async def test_the_outcome_arrives_in_the_service_s_loop() -> None:
    """The work runs on its own daemon thread and event loop, and the service's event loop gets its outcome."""
    ran: list[tuple[threading.Thread, asyncio.AbstractEventLoop]] = []

    async def work() -> None:
        ran.append((threading.current_thread(), asyncio.get_running_loop()))

    thread = started(work)
    await asyncio.wrap_future(thread.outcome)
    ((where, loop),) = ran
    assert (where.name, where.daemon) == ("worker", True)
    assert loop is not asyncio.get_running_loop()
    assert loop.is_closed() or thread.join(FOREVER_SECONDS)


async def test_an_error_is_the_outcome() -> None:
    """The work raises an error: the outcome is the same error object."""
    error = WaitTimeout("gave up")

    async def work() -> None:
        raise error

    with pytest.raises(WaitTimeout) as raised:
        await asyncio.wrap_future(started(work).outcome)
    assert raised.value is error


def test_a_system_exit_ends_only_the_thread() -> None:
    """The work raises SystemExit: it is the thread's outcome, and the process continues."""

    async def work() -> None:
        raise SystemExit(3)

    assert isinstance(started(work).outcome.exception(FOREVER_SECONDS), SystemExit)


def test_a_thread_cancelled_before_its_start_runs_nothing() -> None:
    """The thread is cancelled before its start, as by an early signal: the work never begins."""
    work = Stuck()
    thread = MigrationThread(work)
    thread.cancel()
    thread.start()
    assert isinstance(thread.outcome.exception(FOREVER_SECONDS), asyncio.CancelledError)
    assert not work.began.is_set()


def test_cancelled_work_cleans_up_before_the_outcome() -> None:
    """The thread is cancelled in the middle of the work: its `finally` runs before the outcome is set."""
    work = Stuck()
    thread = started(work)
    thread.cancel()
    assert isinstance(thread.outcome.exception(FOREVER_SECONDS), asyncio.CancelledError)
    assert work.undone.is_set()
    assert thread.join(FOREVER_SECONDS)


def test_repeated_cancellation_raises_nothing() -> None:
    """The thread is cancelled twice, and again after its end, as by two Ctrl-C: nothing is raised."""
    thread = started(Stuck())
    thread.cancel()
    thread.cancel()
    assert thread.join(FOREVER_SECONDS)
    thread.cancel()
    assert thread.outcome.done()


def test_a_join_returns_at_its_time_limit() -> None:
    """The work computes and cannot be cancelled: `join` returns False at its time limit."""
    began, go_on = threading.Event(), threading.Event()

    async def computes() -> None:
        began.set()
        go_on.wait(FOREVER_SECONDS)

    thread = started(computes)
    assert began.wait(FOREVER_SECONDS)
    thread.cancel()
    assert not thread.join(0.01)
    go_on.set()
    assert thread.join(FOREVER_SECONDS)


async def test_a_cancelled_waiter_does_not_cancel_the_thread() -> None:
    """A waiter for the outcome is cancelled: the thread continues until it is cancelled itself."""
    thread = started(Stuck())
    waiter = asyncio.ensure_future(asyncio.wrap_future(thread.outcome))
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    assert not thread.outcome.cancelled()
    thread.cancel()
    assert await asyncio.to_thread(thread.join, FOREVER_SECONDS)


async def test_blocking_work_has_no_event_loop_and_can_wait_on_the_starting_one() -> None:
    """Blocking work runs in a thread where `asyncio.run` is possible, and waits for coroutines on the first loop."""
    here = asyncio.get_running_loop()

    async def loop() -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    def work() -> tuple[bool, bool]:
        return wait_on_loop(loop) is here, asyncio.run(loop()) is here

    assert await start_blocking(work, "work") == (True, False)


async def test_an_error_of_blocking_work_is_its_outcome() -> None:
    """Blocking work calls exit(): the future has that error, and the loop goes on."""
    with pytest.raises(SystemExit):
        await start_blocking(lambda: sys.exit(4), "work")
