"""The migration session on PostgreSQL: one connection that reads, holds the lock and runs the revisions.

It reads and locks in autocommit; only a revision runs in a transaction. Behind a transaction pooler, one transaction
carries the lock and all revisions.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import asyncpg

from ...core.lock_key import LockKey
from ...core.protocols import ANSWER_SECONDS, MigrationRequest, ProgressListener
from ...core.status import LockStatus
from ...errors import DatabaseUnreachable, DirectConnectionNeeded, OldInstances, ReadOnlyServer
from ...execution.error_translation import translated
from ...execution.limits import Limits
from ...execution.lock_retry import LockRetrySchedule
from ...execution.runner import Runner
from ...lock_manager import (
    CURRENT_SESSIONS,
    HELD,
    NAMED_SESSIONS,
    SessionLock,
    TransactionLock,
    application_name,
)
from ...urls.database_url import DatabaseURL
from ...urls.postgres import ASYNCPG
from .connection import connect, revision_connection
from .lock_status import lock_status
from .retry_pause import IN_BATCHES, as_recorded
from .store import PostgresStore
from .terminate import terminate_if_stalled

if TYPE_CHECKING:
    from ..backups.postgres import PostgresBackup  # optional
    from .locked_run import LockedRun

CLOSE_SECONDS = 1.0


class PostgresSession:
    """A `MigrationSession` on PostgreSQL 14 or later."""

    def __init__(
        self,
        url: DatabaseURL,
        key: LockKey,
        limits: Limits,
        schedule: LockRetrySchedule,
        runner: Runner,
        role: str = "waiting",
        backup: PostgresBackup | None = None,
    ) -> None:
        self._url = url
        self._key = key
        self._limits = limits
        self._runner = runner
        self._role = role
        self._backup = backup
        self._schedule = schedule
        self.store = PostgresStore(self._look, runner)
        self._raw: asyncpg.Connection | None = None
        self._lock: SessionLock | None = None
        self._run: LockedRun | None = None
        self._standby = False
        self._listening = False
        self._woken = asyncio.Event()

    async def open(self) -> None:
        """Connect if not connected."""
        if self._raw is None or self._raw.is_closed():
            self._lock, self._listening = None, False
            name = application_name(self._key, self._role, self._runner.author.instance)
            async with translated(self._url.connecting):
                self._raw = await connect(self._url, self._limits, name)

    async def try_lock(self) -> bool:
        """Acquire the advisory lock if it is free, and check the tables; behind a pooler, in a transaction."""
        from .locked_run import LockedRun  # at head, a start needs neither it nor Alembic

        async with translated("acquiring the lock"):
            lock = await self._suitable_lock()
            if self._standby:
                raise ReadOnlyServer(
                    "the server is a standby, where advisory locks protect nothing. To fix: point "
                    "MIGRATION_DATABASE_URL at the primary, or add target_session_attrs=read-write to a URL with "
                    "several hosts"
                )
            held = await lock.try_lock()
            if held:
                other = None if self._url.revision_driver == ASYNCPG else partial(revision_connection, self._url)
                self._run = LockedRun(self._connection, lock, self._limits, self._runner, self._beside, other)
                await self._run.prepare()
        if held:
            await self.store.recognise()
        return held

    async def lock_is_held(self) -> bool:
        """Return whether any session holds the advisory lock."""
        held = "SELECT count(*)" + HELD.format(high="$1", low="$2")
        return bool(await self._value(held, self._key.high, self._key.low))

    async def old_instances(self, request: MigrationRequest) -> OldInstances | None:
        """Return the error if sessions of builds that lack what a contract revision requires are connected."""
        revisions = (await self.store.observe()).revisions if self._runner.revisions.code.contracts else ()
        contracts = self._runner.contracts(request, revisions)
        if not contracts:
            return None
        from ...core.builds import NamedSessions, outdated, refusal  # at head, a start does not need it

        async with translated("reading the sessions of older builds"):
            await self._connection.execute(CURRENT_SESSIONS, timeout=ANSWER_SECONDS)
            rows = await self._connection.fetch(NAMED_SESSIONS, timeout=ANSWER_SECONDS)
        code, sessions = self._runner.revisions.code, [NamedSessions(**row) for row in rows]
        blockers = outdated(sessions, contracts, code, await self.store.lineage())
        return refusal(blockers, contracts, code) if blockers else None

    async def back_up_if_requested(self, request: MigrationRequest) -> None:
        """Take the requested backup, if any, unless an upgrade has nothing to do."""
        if self._backup is None:
            return
        revisions = (await self.store.observe()).revisions
        if request.kind != "upgrade" or self._runner.planned(request, revisions):
            async with translated("backing up"):
                await self._backup.take(self._held, self._connection, revisions)

    async def run(self, request: MigrationRequest, listener: ProgressListener) -> None:
        """Run the request on the connection that holds the lock."""
        assert self._run is not None, "call try_lock first"
        if request.kind == "backup":  # done by `back_up_if_requested`
            return
        if self._run.lock.transaction_scoped and not request.create_all:
            await self._refuse_autocommit(request)
        async with translated("migrating"):
            await self._run.run(request, listener)

    async def unlock(self) -> None:
        """Release the lock and notify the waiters."""
        async with translated("releasing the lock"):
            await self._held.unlock()
            await self._connection.execute(f"NOTIFY {self._key.channel}", timeout=ANSWER_SECONDS)

    async def lock_status(self) -> LockStatus:
        """Return the lock holder, its statement, the sessions that block it, and the waiters."""
        async with translated("reading the lock's holder"):
            seen = await lock_status(self._key, self._connection)
            if self._role == "waiting":
                await terminate_if_stalled(self._connection, self._key, seen, self._limits.idle_seconds)
        other = seen.statement is not None and seen.statement.kind not in IN_BATCHES
        if seen.holder is None or other or seen.blocked_by:
            return seen
        return as_recorded(seen, await self.store.newest_attempt())

    async def pause(self, seconds: float, listening_seconds: float) -> bool:
        """Wait for the notification; or `seconds` without a connection if the server is crowded or pooled."""
        if self._listening:
            return await self._woken_within(listening_seconds) or self._raw is None or self._raw.is_closed()
        if await self._may_listen():
            # returns at once: the holder may have released the lock just before, so the caller checks again
            async with translated("listening for the holder"):
                await self._connection.add_listener(self._key.channel, self._wake)
            self._listening = True
        else:
            await self.close()
            await self._woken_within(seconds)
        return True

    async def close(self) -> None:
        """Close the connection, which frees the lock."""
        raw, self._raw = self._raw, None
        if raw is None:
            return
        try:
            await raw.close(timeout=CLOSE_SECONDS)
        except (OSError, asyncpg.InterfaceError, asyncpg.PostgresError, asyncpg.InternalClientError):
            raw.terminate()

    async def _beside(self) -> asyncpg.Connection:
        return await connect(
            self._url, self._limits, application_name(self._key, "observing", self._runner.author.instance)
        )

    @property
    def _connection(self) -> asyncpg.Connection:
        if self._raw is None or self._raw.is_closed():
            raise DatabaseUnreachable("the session was closed by the server or the network")
        return self._raw

    @property
    def _held(self) -> SessionLock:
        assert self._lock is not None, "call try_lock first"
        return self._lock

    async def _suitable_lock(self) -> SessionLock:
        if self._lock is None:
            sql = "SELECT pg_backend_pid(), pg_is_in_recovery()"
            pid, self._standby = await self._connection.fetchrow(sql, timeout=ANSWER_SECONDS)
            # a pooler answers the start-up itself, with another pid than the backend's
            transaction_scoped = pid != self._connection.get_server_pid()
            self._lock = (TransactionLock if transaction_scoped else SessionLock)(
                self._key, self._connection, self._schedule
            )
        return self._lock

    async def _refuse_autocommit(self, request: MigrationRequest) -> None:
        observed = await self.store.observe()
        revisions = self._runner.revisions
        needing = revisions.needing_autocommit(self._runner.planned(request, observed.revisions))
        if needing:
            raise DirectConnectionNeeded.for_block("; ".join(map(revisions.describe, needing)))

    @asynccontextmanager
    async def _look(self) -> AsyncIterator[asyncpg.Connection]:
        async with self._held.look() if self._lock else nullcontext():
            yield self._connection

    async def _value(self, sql: str, *arguments: Any) -> Any:
        async with translated("reading from the server"):
            return await self._connection.fetchval(sql, *arguments, timeout=ANSWER_SECONDS)

    async def _may_listen(self) -> bool:
        # Waiters must leave connections for the holder and for the old release, which still serves: a waiter keeps its
        # connection only while the server has less than half of its maximum. Otherwise it reconnects for each check.
        async with translated("reading from the server"):
            if (await self._suitable_lock()).transaction_scoped:
                return False
        room = "count(*) * 2 < current_setting('max_connections')::int"
        return bool(await self._value(f"SELECT {room} FROM pg_stat_activity WHERE datid IS NOT NULL"))

    def _wake(self, *_: object) -> None:
        self._woken.set()

    async def _woken_within(self, seconds: float) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        woken = self._woken.is_set()
        self._woken.clear()
        return woken
