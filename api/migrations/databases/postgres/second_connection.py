"""The session beside the one that holds the first advisory lock: it is kept, watched and terminated from the loop."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import asyncpg
import sqlalchemy as sa

from ...core.protocols import ANSWER_SECONDS, MigrationRequest, ProgressListener
from ...execution.limits import Limits
from ...execution.runner import OpenConnection, Runner
from ...lock_manager import HELD, SessionLock
from ..second_connection import SecondSession, run_on_second
from .connection import engine_over
from .lock_watcher import Observer
from .second_lock import SecondLock


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
        lock = SecondLock(self._lock.key, first_pid, self._lock.schedule, self._limits, self._name, observer)
        second = _Second(self._connection, lock, self._limits, self._beside)
        async with observer.watching():
            await run_on_second(self._runner, self._open_connection, second, request, listener)
        if request.kind == "stamp":
            async with engine_over(self._connection, self._lock.isolation_level).connect() as connection:
                await connection.run_sync(self._runner.settle)


class _Second(SecondSession):
    """The session with the second lock, beside the one on `first`."""

    def __init__(
        self,
        first: asyncpg.Connection,
        lock: SecondLock,
        limits: Limits,
        beside: Callable[[], Awaitable[asyncpg.Connection]],
    ) -> None:
        self.idle_seconds = limits.idle_seconds
        self._first = first
        self._lock = lock
        self._beside = beside

    def acquire(self, connection: sa.Connection) -> SecondLock:
        """Acquire the second lock on `connection`."""
        return self._lock.acquire(connection)

    async def beat(self) -> None:
        """Execute a statement on the first session."""
        await self._first.execute("SELECT", timeout=ANSWER_SECONDS)

    async def end(self) -> None:
        """Terminate the second session, if it still holds the second lock."""
        if self._lock.pid is None:
            return
        connection = await self._beside()
        try:
            held = HELD.format(high=self._lock.key.high, low=self._lock.key.low)
            end = f"SELECT pg_terminate_backend(pid) {held} AND pid = $1"
            await connection.execute(end, self._lock.pid, timeout=ANSWER_SECONDS)
        finally:
            connection.terminate()
