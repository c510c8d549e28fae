"""The migration session on MySQL, MariaDB and SQLite: one connection that reads, holds the lock and runs the revisions.

A `Platform` and its lock have the differences between them. These databases send no notifications: a waiter connects,
checks the lock and disconnects.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from sqlalchemy.ext.asyncio import AsyncConnection

from ..core.batches import from_note
from ..core.protocols import ANSWER_SECONDS, MigrationRequest, ProgressListener
from ..core.status import LockStatus
from ..errors import DatabaseUnreachable, LockContended, OldInstances
from ..execution.error_translation import contended, translated
from ..execution.history_table import OPEN
from ..execution.hook_calls import HookCalls
from ..execution.lock_retry import LockRetrySchedule, retry_while_contended
from ..execution.runner import Runner
from ..runtime.cancellation import to_the_end
from .second_connection import run_on_second
from .sql_lock import ExclusiveLock
from .sql_store import SqlStore, answered

if TYPE_CHECKING:
    from .backups.sqlite import SqliteBackup  # not every Python has SQLite

CLOSE_SECONDS = 1.0


class Platform(Protocol):
    """Connects to a database, and locks it."""

    lock_ends_with_connection: bool
    """Whether closing the connection frees the lock; else `unlock` or `forget` does."""
    connecting: str
    """What `connect` does, for messages."""

    async def connect(self) -> AsyncConnection:
        """Open a connection in autocommit. The errors are the driver's."""

    def lock(self, connection: AsyncConnection) -> ExclusiveLock:
        """Return the lock for `connection`, not yet acquired."""

    async def abort(self) -> None:
        """Stop the statement on the last connection, and any after it; the caller then closes the connection."""


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
        self._begun = False
        """Whether the application's function `before` was called under this lock."""

    async def open(self) -> None:
        """Connect if not connected."""
        if self._raw is not None and not self._raw.invalidated:
            return
        await self.close()
        async with answered(self._platform.connecting):
            self._raw = await self._platform.connect()
        self._lock = self._platform.lock(self._raw)

    async def try_lock(self) -> bool:
        """Acquire the lock if it is free, and check the tables."""
        async with answered("acquiring the lock"):
            held = await self._held.try_lock()
        self._begun = False
        if held:
            await self.store.recognise()
        return held

    async def lock_is_held(self) -> bool:
        """Return whether any session holds the lock."""
        async with answered("checking the lock"):
            return await self._held.held()

    async def old_instances(self, request: MigrationRequest) -> OldInstances | None:
        """Return None: these databases do not show the names of sessions."""
        return None

    async def back_up_if_requested(self, request: MigrationRequest) -> None:
        """Take the requested backup, if any, unless an upgrade has nothing to do."""
        if self._backup is None:
            return
        revisions = (await self.store.observe()).revisions
        if request.kind != "upgrade" or self._runner.planned(request, revisions):
            async with translated("backing up"):
                await self._backup.take(self._connection, revisions)

    async def run(self, request: MigrationRequest, listener: ProgressListener) -> None:
        """Run the request on the connection that holds the lock."""
        if request.kind == "backup":  # done by `back_up_if_requested`
            return
        work = asyncio.ensure_future(self._run(request, listener))
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            await to_the_end(self._break_off(work))
            raise

    async def unlock(self) -> None:
        """Release the lock."""
        async with answered("releasing the lock"):
            await self._held.unlock()

    async def lock_status(self) -> LockStatus:
        """Return the lock holder."""
        async with answered("reading the lock's holder"):
            holder, statement = await self._held.holder(), None
        if holder is not None and not self._held.knows_instances:
            # a holder that runs a revision has recorded its name
            newest = await self.store.runs(1)
            if newest and newest[0]["outcome"] in OPEN:
                holder = replace(holder, instance=newest[0]["instance"])
                statement = None if newest[0]["finished_at"] else from_note(newest[0].get("note"))
        return LockStatus(holder, statement)

    async def pause(self, seconds: float, listening_seconds: float) -> bool:
        """Wait `seconds` without a connection, which other sessions may need."""
        await self.close()
        await asyncio.sleep(seconds)
        return True

    async def close(self) -> None:
        """Close the connection, and free the lock."""
        await self._disconnect()
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.forget()

    async def _disconnect(self) -> None:
        raw, self._raw = self._raw, None
        if raw is None:
            return
        # the lock must outlive the run: if the connection does not close, the lock stays until the process ends
        lock, self._lock = self._lock, None
        with suppress(Exception):
            async with asyncio.timeout(CLOSE_SECONDS):
                await raw.close()
                self._lock = lock

    async def _break_off(self, work: asyncio.Future[None]) -> None:
        work.cancel()
        # otherwise the statement continues in the server or the library, and blocks the record of the failure
        with suppress(Exception):
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._platform.abort()
        await asyncio.wait({work}, timeout=ANSWER_SECONDS)
        # a lock that outlives the connection is kept until the outcome is recorded
        await self._disconnect()

    async def _run(self, request: MigrationRequest, listener: ProgressListener) -> None:
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
            if not self._begun:
                await connection.run_sync(HookCalls(self._runner).before, request, listener, lock)
            self._begun = True  # a retry of a contended revision does not call it again
            await self._run_revisions(request, listener)
            await connection.run_sync(HookCalls(self._runner).after, request, listener, lock)
        except DatabaseUnreachable as error:
            if not (planned and error.__cause__ and contended(error.__cause__)):
                raise
            # contention before the first revision began: SQLite has one lock for the whole file
            raise LockContended(error.message, planned[0]) from error
        finally:
            if not (connection.invalidated or connection.closed):
                await connection.rollback()
                await connection.execution_options(isolation_level="AUTOCOMMIT")

    async def _run_revisions(self, request: MigrationRequest, listener: ProgressListener) -> None:
        if not self._runner.own_connection or request.kind == "repair":
            await self._connection.run_sync(self._runner.run, request, listener, self._held)
            return
        await run_on_second(self._runner, None, self._held.second(), request, listener)
        if request.kind == "stamp":
            await self._connection.run_sync(self._runner.settle)

    @property
    def _connection(self) -> AsyncConnection:
        if self._raw is None or self._raw.invalidated:
            raise DatabaseUnreachable("the session was closed by the server or the network")
        return self._raw

    @property
    def _held(self) -> ExclusiveLock:
        assert self._lock is not None, "call open first"
        return self._lock
