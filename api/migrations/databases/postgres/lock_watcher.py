"""Observes the migrating session from a second connection, which opens when a statement lasts long."""

from __future__ import annotations

import asyncio
import time
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
    async def watching(self) -> AsyncIterator[None]:
        """Observe the statements of the engine or connection given to `listen` during an attempt."""
        self.blockers = ()
        self._began = None
        task = asyncio.create_task(self._watch(), name="observer")
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            self._leave()

    def listen(self, target: sa.Engine | sa.Connection) -> None:
        """Follow the statements of `target`, in whatever thread it executes them."""
        sa.event.listen(target, "before_cursor_execute", self._begin)
        sa.event.listen(target, "after_cursor_execute", self._end)

    async def _watch(self) -> None:
        asked = time.monotonic()
        while True:
            await asyncio.sleep(PATIENCE_SECONDS / 2)
            if self._due(time.monotonic(), asked):
                asked = time.monotonic()
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
        self._began = time.monotonic()

    def _end(self, *_: Any) -> None:
        self._began = None
