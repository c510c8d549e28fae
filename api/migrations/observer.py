"""Who is in the way of the migration: asked of the server from a second connection, and only while it waits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import asyncpg
import sqlalchemy as sa

from .connection import ANSWER_SECONDS
from .state import Blocker

PATIENCE_SECONDS = 0.15
"""A statement that lasts longer may be waiting; less than the shortest lock timeout, or it would be gone."""
ASK_EVERY_SECONDS = 2.0

# pg_blocking_pids stops the lock manager for a moment, so it is called only for a backend that waits for a lock
_BLOCKERS = """
    SELECT b.pid, a.application_name AS application, a.usename AS user, a.state,
           extract(epoch FROM clock_timestamp() - a.xact_start)::float8 AS seconds,
           w.relation::regclass::text AS relation, w.mode
    FROM (SELECT pid FROM pg_stat_activity WHERE pid = $1 AND wait_event_type = 'Lock') m,
         LATERAL unnest(pg_blocking_pids(m.pid)) AS b(pid)
    LEFT JOIN pg_stat_activity a ON a.pid = b.pid
    LEFT JOIN LATERAL (SELECT relation, mode FROM pg_locks WHERE pid = $1 AND NOT granted LIMIT 1) w ON true
"""


class Observer:
    """Watches one backend from the side; without a connection to spare nothing is known, and the migration goes on."""

    def __init__(self, connect: Callable[[], Awaitable[asyncpg.Connection]], pid: int) -> None:
        self.blockers: tuple[Blocker, ...] = ()
        """Those seen last, in this attempt."""
        self._connect = connect
        self._pid = pid
        self._began: float | None = None

    @asynccontextmanager
    async def watching(self, engine: sa.Engine) -> AsyncIterator[None]:
        """Around an attempt: whatever `engine` executes is watched."""
        self.blockers = ()
        sa.event.listen(engine, "before_cursor_execute", self._begin)
        sa.event.listen(engine, "after_cursor_execute", self._end)
        task = asyncio.create_task(self._watch(), name="observer")
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _watch(self) -> None:
        loop, asked = asyncio.get_running_loop(), float("-inf")
        while True:
            await asyncio.sleep(PATIENCE_SECONDS / 2)
            began, now = self._began, loop.time()
            waits = began is not None and now - began >= PATIENCE_SECONDS
            if began is not None and waits and (asked < began or now - asked >= ASK_EVERY_SECONDS):
                asked = now
                # what cannot be seen is not known; the migration must not fail for it
                with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError):
                    await self._ask()

    async def _ask(self) -> None:
        connection = await self._connect()
        try:
            rows = await connection.fetch(_BLOCKERS, self._pid, timeout=ANSWER_SECONDS)
            self.blockers = tuple(Blocker(**dict(row)) for row in rows) or self.blockers
        finally:
            connection.terminate()

    def _begin(self, *_: Any) -> None:
        self._began = asyncio.get_running_loop().time()

    def _end(self, *_: Any) -> None:
        self._began = None
