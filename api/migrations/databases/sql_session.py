"""The migration session on MySQL, MariaDB and SQLite: one connection that looks, takes the lock and runs the revisions.

What differs between them is in a `Platform` and its lock; how a run goes is the same as on PostgreSQL. Nobody is
notified here: those who wait connect, look and leave.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from ..core.protocols import ANSWER_SECONDS, MigrationRequest, ProgressListener
from ..core.status import Holder, LockStatus
from ..errors import DatabaseUnreachable, LockContended
from ..execution.contention import retry_while_contended
from ..execution.error_translation import contended, missing, translate
from ..execution.history_table import OPEN
from ..execution.lock_retry import LockRetrySchedule
from ..execution.runner import Runner
from ..execution.steps import MigrationLock
from ..execution.table_shape import Shape
from ..execution.version_ids import IdColumn, refuse
from ..runtime.cancellation import to_the_end
from .sql_store import SqlTables, shape

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


class SqlSession(SqlTables):
    """A `MigrationSession` on a platform."""

    def __init__(
        self,
        platform: Platform,
        schedule: LockRetrySchedule,
        runner: Runner,
        instance: str,
        backup: SqliteBackup | None = None,
    ) -> None:
        super().__init__(*runner.tables, instance, runner.revisions.code.parents)
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
        async with _answered("connecting"):
            self._raw = await self._platform.connect()
        self._lock = self._platform.lock(self._raw)

    async def check_ids(self, request: MigrationRequest, revisions: frozenset[str]) -> None:
        """Ask MySQL's catalog, if there is an id that may not fit; SQLite enforces no length."""
        ids = self._runner.doubtful_ids(request, revisions)
        if not ids or self._connection.dialect.name != "mysql":
            return
        sizes, encoding = await self._id_column()
        table = self._connection.dialect.identifier_preparer.format_table(self._version_table)
        refuse(ids, IdColumn.of(table, "mysql", encoding, sizes))

    async def try_lock(self) -> bool:
        """Take the lock if it is free, and look at the tables."""
        async with _answered("taking the lock"):
            held = await self._held.try_lock()
        if held:
            await self.recognise()
        return held

    async def lock_is_held(self) -> bool:
        """Whether any session holds the lock."""
        async with _answered("looking at the lock"):
            return await self._held.held()

    async def back_up_if_requested(self, request: MigrationRequest) -> None:
        """Take the backup, if this session was given one and the order is going to change anything."""
        if self._backup is None:
            return
        revisions = (await self.observe()).revisions
        if request.kind != "upgrade" or self._runner.planned(request, revisions):
            async with _translated("backing up"):
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

    async def record_timeout(self, error: str) -> None:
        """Record that this instance's attempt is about to be ended, where its lock ends with the connection."""
        if self._platform.lock_ends_with_connection:
            await self.open()
            await self._fail_attempt(error, None)

    async def record_failure(
        self, error: str, revision: str | None, age_seconds: float, error_class: str = "TimeoutError"
    ) -> None:
        """Record this instance's attempt as failed, unless it was applied after all."""
        parents = self._runner.revisions.code.parents.get(revision or "", frozenset())
        release = self._runner.author.release
        await self._fail_attempt(error, revision, " ".join(sorted(parents)), release, age_seconds, error_class)

    async def unlock(self) -> None:
        """Give the lock back."""
        async with _answered("giving the lock back"):
            await self._held.unlock()

    async def lock_status(self) -> LockStatus:
        """Who holds the lock."""
        async with _answered("looking for the lock's holder"):
            holder = await self._held.holder()
        if holder is not None and not self._held.knows_instances:
            # who is at a revision has written down its name
            newest = await self.runs(1)
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
        async with _translated("migrating"):
            await retry_while_contended(
                lambda: self._attempt(request, listener),
                request,
                self._schedule,
                lambda revision, attempt, seconds: listener.contended(revision, attempt, seconds, ()),
                lambda _revision, _attempt, seconds: asyncio.sleep(seconds),
            )

    async def _attempt(self, request: MigrationRequest, listener: ProgressListener) -> None:
        connection, lock = self._connection, self._held
        planned = self._runner.planned(request, (await self.observe()).revisions)
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

    async def _rows_if_there(self, statement: sa.Executable) -> Sequence[sa.Row[Any]]:
        async with _answered("reading the revision"):
            try:
                rows = (await self._connection.execute(statement)).all()
            except DBAPIError as error:
                if not missing(error):
                    raise
                rows = []
                await self._connection.rollback()
                await self._recognise_once()
            await self._connection.rollback()
            return rows

    async def _shapes(self) -> tuple[Shape | None, Shape | None]:
        async with _answered("looking at the tables"):
            version, history = [await self._connection.run_sync(shape, table) for table in self._runner.tables]
            await self._connection.rollback()
        return version, history

    async def _write(self, *statements: sa.Executable) -> None:
        async with _answered("writing the history"):
            for statement in statements:
                await self._connection.execute(statement)
            await self._connection.rollback()  # in autocommit each is committed by now


@asynccontextmanager
async def _translated(doing: str) -> AsyncIterator[None]:
    try:
        yield
    except Exception as error:
        raise translate(error, doing) from error


@asynccontextmanager
async def _answered(doing: str) -> AsyncIterator[None]:
    async with _translated(doing), asyncio.timeout(ANSWER_SECONDS):
        yield
