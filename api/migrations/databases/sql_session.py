"""The migration session on MySQL, MariaDB and SQLite: one connection that looks, takes the lock and runs the revisions.

What differs between them is in a `Platform` and its lock; how a run goes is the same as on PostgreSQL. Nobody is
notified here: those who wait connect, look and leave.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from sqlalchemy.ext.asyncio import AsyncConnection

from ..core.protocols import ANSWER_SECONDS, MigrationRequest, ProgressListener
from ..core.status import Holder, LockStatus
from ..errors import DatabaseUnreachable, LockContended
from ..execution.error_translation import contended, translated
from ..execution.history_table import OPEN
from ..execution.lock_retry import LockRetrySchedule, retry_while_contended
from ..execution.migration_lock import MigrationLock
from ..execution.runner import Runner
from ..runtime.cancellation import to_the_end
from .sql_store import SqlStore, answered

if TYPE_CHECKING:
    from .backups.sqlite import SqliteBackup  # not every Python has SQLite

CLOSE_SECONDS = 1.0


class ExclusiveLock(MigrationLock, Protocol):
    """The database's own lock; it ends with the connection, or with the process."""

    isolation_level: str
    """In which a run's transactions go."""
    knows_instances: bool
    """Whether `holder` names an instance; else only the connection."""

    async def try_lock(self) -> bool:
        """Take it if it is free; never waits."""

    async def unlock(self) -> None:
        """Give it back. Raises `HoldLost` if it was not ours any more."""

    async def held(self) -> bool:
        """Whether any session holds it."""

    async def holder(self) -> Holder | None:
        """Who has it, as far as that can be known."""

    def forget(self) -> None:
        """The connection is closed: leave nothing behind."""


class Platform(Protocol):
    """What a database needs to be connected to and locked."""

    lock_ends_with_connection: bool
    """Whether nobody has the lock any more once the connection is closed; else once it is given back or forgotten."""

    async def connect(self) -> AsyncConnection:
        """A connection in autocommit, of which nobody else has a part. Raises whatever the driver raises."""

    def lock(self, connection: AsyncConnection) -> ExclusiveLock:
        """The lock, not yet taken, that goes with `connection`."""

    async def abort(self) -> None:
        """End whatever is at work on the connection made last, and all that would follow; it is closed after."""


class SqlSession:
    """A `MigrationSession` on a platform."""

    def __init__(
        self,
        platform: Platform,
        schedule: LockRetrySchedule,
        runner: Runner,
        backup: SqliteBackup | None = None,
    ) -> None:
        ends = platform.lock_ends_with_connection
        self.store = SqlStore(lambda: self._connection, runner, lock_ends_with_connection=ends)
        self._platform = platform
        self._schedule = schedule
        self._runner = runner
        self._backup = backup
        self._raw: AsyncConnection | None = None
        self._lock: ExclusiveLock | None = None

    async def open(self) -> None:
        """Connect, unless connected."""
        if self._raw is not None and not self._raw.invalidated:
            return
        await self.close()
        async with answered("connecting"):
            self._raw = await self._platform.connect()
        self._lock = self._platform.lock(self._raw)

    async def try_lock(self) -> bool:
        """Take the lock if it is free, and look at the tables."""
        async with answered("taking the lock"):
            held = await self._held.try_lock()
        if held:
            await self.store.recognise()
        return held

    async def lock_is_held(self) -> bool:
        """Whether any session holds the lock."""
        async with answered("looking at the lock"):
            return await self._held.held()

    async def back_up_if_requested(self, request: MigrationRequest) -> None:
        """Take the backup, if this session was given one and the order is going to change anything."""
        if self._backup is None:
            return
        revisions = (await self.store.observe()).revisions
        if request.kind != "upgrade" or self._runner.planned(request, revisions):
            async with translated("backing up"):
                await self._backup.take(self._connection, revisions)

    async def run(self, request: MigrationRequest, listener: ProgressListener) -> None:
        """Run the order on this very connection."""
        if request.kind == "backup":  # `back_up_if_requested` has done it
            return
        work = asyncio.ensure_future(self._persist(request, listener))
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            await to_the_end(self._break_off(work))
            raise

    async def unlock(self) -> None:
        """Give the lock back."""
        async with answered("giving the lock back"):
            await self._held.unlock()

    async def lock_status(self) -> LockStatus:
        """Who holds the lock."""
        async with answered("looking for the lock's holder"):
            holder = await self._held.holder()
        if holder is not None and not self._held.knows_instances:
            # who is at a revision has written down its name
            newest = await self.store.runs(1)
            if newest and newest[0]["outcome"] in OPEN:
                holder = replace(holder, instance=newest[0]["instance"])
        return LockStatus(holder)

    async def pause(self, seconds: float) -> None:
        """Wait `seconds` without a connection, which others may need."""
        await self.close()
        await asyncio.sleep(seconds)

    async def close(self) -> None:
        """Close the connection, and with it everything the session held."""
        await self._disconnect()
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.forget()

    async def _disconnect(self) -> None:
        raw, self._raw = self._raw, None
        if raw is None:
            return
        # the lock must outlive the work: where the connection does not close, until the process ends
        lock, self._lock = self._lock, None
        with suppress(Exception):
            async with asyncio.timeout(CLOSE_SECONDS):
                await raw.close()
                self._lock = lock

    async def _break_off(self, work: asyncio.Future[None]) -> None:
        work.cancel()
        # what it is at would go on in the server, or in the library; and it is in the way of the record
        with suppress(Exception):
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._platform.abort()
        await asyncio.wait({work}, timeout=ANSWER_SECONDS)
        # a lock that outlives it is kept until it is recorded what became of the work
        await self._disconnect()

    async def _persist(self, request: MigrationRequest, listener: ProgressListener) -> None:
        async with translated("migrating"):
            await retry_while_contended(
                lambda: self._attempt(request, listener),
                request,
                self._schedule,
                lambda revision, attempt, seconds: listener.contended(revision, attempt, seconds, ()),
                lambda _revision, _attempt, seconds: asyncio.sleep(seconds),
            )

    async def _attempt(self, request: MigrationRequest, listener: ProgressListener) -> None:
        connection, lock = self._connection, self._held
        planned = self._runner.planned(request, (await self.store.observe()).revisions)
        await connection.execution_options(isolation_level=lock.isolation_level)
        try:
            await connection.run_sync(self._runner.run, request, listener, lock)
        except DatabaseUnreachable as error:
            if not (planned and error.__cause__ and contended(error.__cause__)):
                raise
            # in the way before the first revision began: SQLite has one lock for everything
            raise LockContended(str(error), planned[0]) from error
        finally:
            if not (connection.invalidated or connection.closed):
                await connection.rollback()
                await connection.execution_options(isolation_level="AUTOCOMMIT")

    @property
    def _connection(self) -> AsyncConnection:
        if self._raw is None or self._raw.invalidated:
            raise DatabaseUnreachable("the session was closed by the server or the network")
        return self._raw

    @property
    def _held(self) -> ExclusiveLock:
        assert self._lock is not None, "open comes first"
        return self._lock
