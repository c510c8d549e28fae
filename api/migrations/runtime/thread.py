"""A dedicated thread with its own event loop, for the session, the lock, the wait and Alembic.

Alembic is synchronous and its proxies are global. A revision that computes for a minute must not keep the service's
loop from answering `/health/live`.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from contextvars import ContextVar, copy_context
from typing import Any, TypeVar

from sqlalchemy.util import await_only

from .dns import run

T = TypeVar("T")
_LOOP: ContextVar[asyncio.AbstractEventLoop | None] = ContextVar("migration_loop", default=None)


class MigrationThread:
    """Runs `work` in its own thread; `outcome` is done when `work` ends, with its error if it raised.

    The thread is a daemon: a revision that hangs in Python code must not keep the process alive. When the process ends,
    its connection is closed, and the server rolls back.
    """

    def __init__(self, work: Callable[[], Awaitable[None]], name: str = "migrations") -> None:
        self.outcome: Future[None] = Future()
        self._work = work
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._guard = threading.Lock()
        self._cancelled = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start the thread."""
        # running: a waiter that is cancelled must not cancel the outcome
        self.outcome.set_running_or_notify_cancel()
        self._thread.start()

    def cancel(self) -> None:
        """Cancel `work` at its next await, from any thread; it rolls back. May be repeated."""
        with self._guard:
            self._cancelled = True
            if self._loop is not None and self._task is not None and not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._task.cancel)

    def join(self, timeout_seconds: float) -> bool:
        """Wait for the end; returns False if the time ran out."""
        self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            run(self._main())
        except BaseException as error:
            self.outcome.set_exception(error)
        else:
            self.outcome.set_result(None)

    async def _main(self) -> None:
        with self._guard:
            if self._cancelled:
                raise asyncio.CancelledError
            self._loop = asyncio.get_running_loop()
            self._task = asyncio.current_task()
        try:
            await self._work()
        finally:
            with self._guard:
                self._loop = None


class Settled:
    """Tells the service's loop from another thread that the start has failed or ended."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()
        self.wait = self._event.wait

    def tell(self, *_: object) -> None:
        """Wake the waiter; may be repeated."""
        with suppress(RuntimeError):  # the loop is closed: no caller waits
            self._loop.call_soon_threadsafe(self._event.set)


def start_blocking(work: Callable[[], T], name: str) -> asyncio.Future[T]:
    """Run `work`, which blocks, in a daemon thread without an event loop, and return the future of its result.

    The thread cannot be cancelled. It inherits the context variables of the caller.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()
    context = copy_context()

    def finish(result: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def main() -> None:
        result, error = None, None
        try:
            context.run(_LOOP.set, loop)
            result = context.run(work)
        except BaseException as raised:
            # a future cannot hold StopIteration, and a loop treats SystemExit as its own
            error = raised
        with suppress(RuntimeError):  # the loop is closed: no caller waits
            loop.call_soon_threadsafe(finish, result, error)

    threading.Thread(target=main, name=name, daemon=True).start()
    return future


def wait_on_loop(make: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Wait for a coroutine on the migration thread's loop: in SQLAlchemy's synchronous half, or in `start_blocking`."""
    loop = _LOOP.get()
    return await_only(make()) if loop is None else asyncio.run_coroutine_threadsafe(make(), loop).result()
