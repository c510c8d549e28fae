"""Prepares and runs a migration on the PostgreSQL connection that holds the lock."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

import asyncpg
import sqlalchemy as sa

from ...core.protocols import ANSWER_SECONDS, MigrationRequest, ProgressListener
from ...core.status import Retry
from ...errors import DirectConnectionNeeded, PrivilegeMissing
from ...execution.hook_calls import HookCalls
from ...execution.limits import Limits
from ...execution.lock_retry import retry_while_contended
from ...execution.runner import OpenConnection, Runner
from ...lock_manager import SessionLock, application_name
from .connection import engine_over, quoted, set_for_work
from .lock_watcher import Observer
from .retry_pause import rest
from .second_connection import SecondConnectionRun

log = logging.getLogger(__name__)

Work = Callable[[sa.Connection, MigrationRequest, ProgressListener, SessionLock], None]

ORPHAN_CHECKS, ORPHAN_CHECK_SECONDS = 10, 0.5


class LockedRun:
    """Runs requests on `connection`, which holds `lock`; `beside` opens another connection to observe it from."""

    def __init__(
        self,
        connection: asyncpg.Connection,
        lock: SessionLock,
        limits: Limits,
        runner: Runner,
        beside: Callable[[], Awaitable[asyncpg.Connection]],
        open_connection: OpenConnection | None = None,
    ) -> None:
        self.lock = lock
        self._connection = connection
        self._limits = limits
        self._runner = runner
        self._beside = beside
        self._open_connection = None if runner.own_connection else open_connection
        self._own: SecondConnectionRun | None = None
        self._begun = False

    async def prepare(self) -> None:
        """Set the session's settings and name, and terminate sessions that migrate without the lock."""
        if self._runner.own_connection or self._open_connection is not None:
            self._own = self._other_connection(self._name("migrating"))
        name = self._name("migrating" if self._own is None else "locking")
        await set_for_work(self._connection, self._limits, name, local=self.lock.transaction_scoped)
        await self._terminate_orphans()
        deadlock = "SELECT setting::float8 / 1000 FROM pg_settings WHERE name = 'deadlock_timeout'"
        seconds = await self._connection.fetchval(deadlock, timeout=ANSWER_SECONDS)
        self.lock.schedule.deadlock_timeout_seconds = seconds

    async def run(self, request: MigrationRequest, listener: ProgressListener) -> None:
        """Run the request; retries each revision until it gets its table locks.

        Raises `RevisionFailed`, also if a relative request lacks a table lock after its first revision; or, behind a
        pooler, `LockContended`: the rollback released the advisory lock.
        """
        history = quoted(self._runner.history.table)
        observer = Observer(self._beside, self.lock.key, listener.observed)
        await retry_while_contended(
            lambda: self._attempt(request, listener, observer),
            request,
            self.lock.schedule,
            lambda revision, attempt, seconds: listener.contended(revision, attempt, seconds, observer.blockers),
            lambda revision, attempt, seconds: rest(
                self._connection, history, revision, Retry(attempt, seconds), observer.blockers
            ),
            again=not self.lock.transaction_scoped,
        )

    async def _attempt(self, request: MigrationRequest, listener: ProgressListener, observer: Observer) -> None:
        runner = self._runner
        try:
            if runner.hooks.before is not None and not self._begun:
                await self._on_this(HookCalls(runner).before, request, listener, observer)
            self._begun = True  # a retry of a contended revision does not call it again
            if self._own is not None and request.kind != "repair":
                await self._own.run(request, listener, observer)
            else:
                await self._on_this(runner.run, request, listener, observer)
            if runner.hooks.after is not None:
                await self._on_this(HookCalls(runner).after, request, listener, observer)
            await self.lock.complete()
        except BaseException:
            if self.lock.transaction_scoped:
                listener.undone()
            raise

    async def _on_this(
        self, work: Work, request: MigrationRequest, listener: ProgressListener, observer: Observer
    ) -> None:
        engine = engine_over(self._connection, self.lock.isolation_level)
        observer.listen(engine.sync_engine)
        async with observer.watching(), engine.connect() as connection:
            await connection.run_sync(work, request, listener, self.lock)

    def _name(self, role: str) -> str:
        return application_name(self.lock.key, role, self._runner.author.instance)

    def _other_connection(self, name: str) -> SecondConnectionRun:
        if self.lock.transaction_scoped:
            why = "the URL names another driver than asyncpg" if self._open_connection else "env.py opens its own"
            raise DirectConnectionNeeded(
                f"revisions run on a connection beside the lock's ({why}), which is not possible through a transaction "
                "pooler. To fix: set MIGRATION_DATABASE_URL to the database's direct endpoint (its own port, not the "
                "pooler's)"
            )
        connection, lock, runner = self._connection, self.lock, self._runner
        return SecondConnectionRun(connection, lock, self._limits, runner, self._beside, name, self._open_connection)

    async def _terminate_orphans(self) -> None:
        # The session that runs revisions holds a lock, so no other session can run any; unless a revision released
        # the lock, or the pg_dump of a killed process still runs, for which revisions would wait.
        orphans = (
            "SELECT array_agg(pid) FROM pg_stat_activity "
            "WHERE application_name ~ ('^' || $1 || '(migrating|backup):') "
            "AND pid <> pg_backend_pid() AND datname = current_database() AND state IS DISTINCT FROM 'idle'"
        )
        for check in range(ORPHAN_CHECKS):
            pids = await self._connection.fetchval(orphans, self.lock.key.label, timeout=ANSWER_SECONDS)
            if not pids:
                return
            if check == ORPHAN_CHECKS - 1:
                await self._terminate(pids)
            await asyncio.sleep(ORPHAN_CHECK_SECONDS)

    async def _terminate(self, pids: list[int]) -> None:
        message = "Terminating sessions %s: they migrate without holding the lock"
        log.warning(message, pids, extra={"event": "orphan_ended"})
        try:
            await self._connection.execute("SELECT pg_terminate_backend(unnest($1::int[]))", pids)
        except asyncpg.InsufficientPrivilegeError as error:
            raise PrivilegeMissing(
                f"sessions {pids} of another role migrate without holding the lock, and this role may not terminate "
                "them. To fix: check pg_stat_activity, then run 'SELECT pg_terminate_backend(pid)' as that role"
            ) from error
