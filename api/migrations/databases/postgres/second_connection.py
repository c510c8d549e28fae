"""Runs revisions on another connection, in a thread, while this session holds the first lock.

It is the connection that `env.py` opens, or one with the driver that the URL names. Its driver may block (psycopg2),
and `env.py` may call `asyncio.run`, so neither belongs on the loop.
The loop keeps the first session alive, watches the second, and terminates it if the run is cancelled.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any, cast

import asyncpg

from ...core.protocols import ANSWER_SECONDS, MigrationRequest, ProgressListener
from ...execution.limits import Limits
from ...execution.runner import OpenConnection, Runner
from ...lock_manager import HELD, SessionLock
from ...runtime.cancellation import to_the_end
from ...runtime.thread import start_blocking
from .connection import engine_over
from .lock_watcher import Observer
from .second_lock import SecondLock

BEAT_SECONDS = 5.0
"""How often the first session executes a statement, at most: the server terminates it when it is idle for too long."""
STOP_SECONDS = 5.0
"""How long a terminated run may take to end; after that its thread is left alone, because it can write nothing."""


class SecondConnectionRun:
    """Requests on another connection, while `connection` holds `lock`.

    Args:
        connection: the session that holds the first lock.
        lock: the first lock.
        limits: of both sessions.
        runner: executes `env.py` and the revisions.
        beside: opens a further connection, to terminate the session of a cancelled run.
        name: the `application_name` of the session that runs revisions.
        open_connection: opens the connection for the revisions; with None `env.py` does.
    """

    def __init__(
        self,
        connection: asyncpg.Connection,
        lock: SessionLock,
        limits: Limits,
        runner: Runner,
        beside: Callable[[], Awaitable[asyncpg.Connection]],
        name: str,
        open_connection: OpenConnection | None,
    ) -> None:
        self._connection = connection
        self._lock = lock
        self._limits = limits
        self._runner = runner
        self._beside = beside
        self._name = name
        self._open_connection = open_connection

    async def run(self, request: MigrationRequest, listener: ProgressListener, observer: Observer) -> None:
        """Run the request once.

        Raises:
            MigrationError: as `Runner.run_on_second` does.
        """
        first_pid = self._connection.get_server_pid()
        second = SecondLock(self._lock.key, first_pid, self._lock.schedule, self._limits, self._name, observer)
        stopped = threading.Event()
        on_loop = cast(ProgressListener, _OnLoop(listener, asyncio.get_running_loop()))
        run = partial(
            self._runner.run_on_second, self._open_connection, second.acquire, request, on_loop, stopped.is_set
        )
        work = start_blocking(run, "revisions")
        async with observer.watching():
            try:
                await self._finished(work)
            except BaseException:
                stopped.set()
                await to_the_end(self._stop(work, second))
                raise
        if request.kind == "stamp":
            async with engine_over(self._connection, self._lock.isolation_level).connect() as connection:
                await connection.run_sync(self._runner.settle)

    async def _finished(self, work: asyncio.Future[None]) -> None:
        beat_seconds = min(BEAT_SECONDS, self._limits.idle_seconds / 4 or BEAT_SECONDS)
        while not work.done():
            await asyncio.wait({work}, timeout=beat_seconds)
            if not work.done():
                await self._connection.execute("SELECT", timeout=ANSWER_SECONDS)
        work.result()

    async def _stop(self, work: asyncio.Future[None], second: SecondLock) -> None:
        if not work.done() and second.pid is not None:
            with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError):
                connection = await self._beside()
                try:
                    held = HELD.format(high=second.key.high, low=second.key.low)
                    end = f"SELECT pg_terminate_backend(pid) {held} AND pid = $1"
                    await connection.execute(end, second.pid, timeout=ANSWER_SECONDS)
                finally:
                    connection.terminate()
        # it is known why it fails, also if it fails later
        work.add_done_callback(lambda done: done.cancelled() or done.exception())
        await asyncio.wait({work}, timeout=STOP_SECONDS)


class _OnLoop:
    """Calls the methods of a `ProgressListener` on the loop, in order, from any thread."""

    def __init__(self, listener: ProgressListener, loop: asyncio.AbstractEventLoop) -> None:
        self._listener = listener
        self._loop = loop

    def __getattr__(self, name: str) -> Callable[..., object]:
        return partial(self._loop.call_soon_threadsafe, cast(Any, getattr(self._listener, name)))
