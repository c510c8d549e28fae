"""A signal cancels the work of a command; afterwards the process has the handlers that it had before."""

import asyncio
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from api.migrations.runtime.signals import Signals


def mine(_number: int, _frame: object) -> None:
    """Stand for a handler of the application."""


@pytest.fixture(autouse=True)
def _handler() -> Iterator[None]:
    """Install a handler of the application."""
    before = signal.signal(signal.SIGTERM, mine)
    yield
    signal.signal(signal.SIGTERM, before)


async def name_of_the_thread() -> str:
    """Return the name of the thread that runs this coroutine."""
    return threading.current_thread().name


def test_a_signal_cancels_the_work() -> None:
    """SIGTERM reaches the process during the work: the work is cancelled, the signal is known, the handler is back."""
    stop = Signals()

    async def work() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.Event().wait()

    with pytest.raises(asyncio.CancelledError):
        stop.run(work)
    assert stop.received == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is mine


def test_an_error_of_the_work_is_raised() -> None:
    """The work raises TimeoutError, which is not taken for the pause between two ticks; the handler is back."""

    async def work() -> None:
        raise TimeoutError("its own")

    with pytest.raises(TimeoutError, match="its own"):
        Signals().run(work)
    assert signal.getsignal(signal.SIGTERM) is mine


def test_the_work_runs_from_any_thread() -> None:
    """Another thread than the main one, or a running event loop, may start the work; it runs in a thread of its own."""
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(Signals().run, name_of_the_thread).result() == "migrations"

    async def on_a_loop() -> str:
        return Signals().run(name_of_the_thread)

    assert asyncio.run(on_a_loop()) == "migrations"
