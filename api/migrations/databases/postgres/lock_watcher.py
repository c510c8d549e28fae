"""Observes the migrating session from a second connection, which opens when a statement lasts long."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import asyncpg
import sqlalchemy as sa

from ...core.lock_key import LockKey
from ...core.status import Blocker, LockStatus
from .lock_status import lock_status

PATIENCE_SECONDS = 0.15
"""A statement that lasts longer may wait for a lock; less than the shortest lock timeout."""
ASK_EVERY_SECONDS = 2.0
"""Between two queries while a statement lasts."""
LOOK_EVERY_SECONDS = 5.0
"""Between two queries otherwise."""


class Observer:
    """Reports the status to `listener`. If it gets no connection, it reports nothing, and the migration continues."""

    def __init__(
        self, connect: Callable[[], Awaitable[asyncpg.Connection]], key: LockKey, listener: Callable[[LockStatus], None]
    ) -> None:
        self.blockers: tuple[Blocker, ...] = ()
        """The last ones of this attempt."""
        self._connect = connect
        self._key = key
        self._report = listener
        self._connection: asyncpg.Connection | None = None
        self._began: float | None = None

    @asynccontextmanager
    async def watching(self, engine: sa.Engine) -> AsyncIterator[None]:
        """Observe the statements of `engine` during an attempt."""
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
            self._leave()

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        asked = loop.time()
        while True:
            await asyncio.sleep(PATIENCE_SECONDS / 2)
            if self._due(loop.time(), asked):
                asked = loop.time()
                await self._ask()

    def _due(self, now: float, asked: float) -> bool:
        began = self._began
        if began is None or now - began < PATIENCE_SECONDS:
            return now - asked >= LOOK_EVERY_SECONDS
        return asked < began or now - asked >= ASK_EVERY_SECONDS

    async def _ask(self) -> None:
        # the migration must not fail because the observation does
        try:
            if self._connection is None:
                self._connection = await self._connect()
            seen = await lock_status(self._key, self._connection)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError):
            self._leave()
            return
        self.blockers = seen.blocked_by or self.blockers
        self._report(seen)

    def _leave(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()

    def _begin(self, *_: Any) -> None:
        self._began = asyncio.get_running_loop().time()

    def _end(self, *_: Any) -> None:
        self._began = None
