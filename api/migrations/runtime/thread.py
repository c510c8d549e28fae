"""A dedicated thread with its own event loop, for the session, the lock, the wait and Alembic.

Alembic is synchronous and its proxies are global. A revision that computes for a minute must not keep the service's
loop from answering `/health/live`.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future

from .dns import run


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
