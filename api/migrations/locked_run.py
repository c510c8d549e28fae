"""A run on the connection that holds the lock: what comes before it, and how a revision gets its table locks.

Each revision asks briefly, and is tried again whole if it did not get its lock and nothing was committed inside it.
The advisory lock stays held in between; the run's budget (MIGRATION_RUN_SECONDS) ends the tries. Behind a transaction
pooler the lock goes with the transaction, so whoever gets it next tries, and MIGRATION_WAIT_SECONDS ends the tries.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

import asyncpg

from .connection import ANSWER_SECONDS, engine_over, set_for_work
from .errors import LockContended, PrivilegeMissing, RevisionFailed
from .limits import Limits
from .lock_manager import SessionLock
from .observer import Observer
from .ports import Order, Report
from .runner import Runner

log = logging.getLogger(__name__)

ORPHAN_LOOKS, ORPHAN_LOOK_SECONDS = 10, 0.5


class LockedRun:
    """Orders on `connection`, which holds `lock`; `beside` opens another one to observe it from."""

    def __init__(
        self,
        connection: asyncpg.Connection,
        lock: SessionLock,
        limits: Limits,
        runner: Runner,
        beside: Callable[[], Awaitable[asyncpg.Connection]],
    ) -> None:
        self.lock = lock
        self._connection = connection
        self._limits = limits
        self._runner = runner
        self._beside = beside

    async def prepare(self, application_name: str) -> None:
        """Give the session its settings and its name, and make sure that nobody else is at work."""
        await set_for_work(self._connection, self._limits, application_name, local=self.lock.pooled)
        await self._outlive_predecessor()
        deadlock = "SELECT setting::float8 / 1000 FROM pg_settings WHERE name = 'deadlock_timeout'"
        seconds = await self._connection.fetchval(deadlock, timeout=ANSWER_SECONDS)
        self.lock.pace.deadlock_timeout_seconds = seconds

    async def carry_out(self, order: Order, report: Report) -> None:
        """Run the order to its end, each revision as often as it takes to get its table locks.

        Raises:
            RevisionFailed: a revision failed, or a relative order did not get its lock after its first revision.
            LockContended: behind a pooler, where the advisory lock went with the transaction that was rolled back.
        """
        observer = Observer(self._beside, self.lock.key, report.observed)
        while True:
            try:
                return await self._attempt(order, report, observer)
            except LockContended as error:
                if order.relative and error.applied and not self.lock.pooled:
                    raise self._not_repeated(order, error) from error
                number, error.pause_seconds = self.lock.pace.contended(error.revision)
                report.contended(error.revision, number, error.pause_seconds, observer.blockers)
                if self.lock.pooled:
                    raise
                await asyncio.sleep(error.pause_seconds)

    async def _attempt(self, order: Order, report: Report, observer: Observer) -> None:
        engine = engine_over(self._connection, self.lock.isolation_level)
        try:
            async with observer.watching(engine.sync_engine), engine.connect() as connection:
                await connection.run_sync(self._runner.carry_out, order, report, self.lock)
            await self.lock.complete()
        except BaseException:
            if self.lock.pooled:
                report.undone()
            raise

    def _not_repeated(self, order: Order, error: LockContended) -> RevisionFailed:
        return RevisionFailed(
            f"{error}; {', '.join(error.applied)} went before, and a relative target ({order.target}) counts from "
            "where the database is, so it is not repeated: name the revision",
            revision=error.revision,
            applied=error.applied,
        )

    async def _outlive_predecessor(self) -> None:
        # Lock and revisions are one session's, so nobody can be at work here; unless a revision dropped the lock and
        # went on, or the pg_dump of a killed process does, which revisions would wait for. Cheap to ask, and fatal to
        # get wrong.
        at_work = (
            "SELECT array_agg(pid) FROM pg_stat_activity "
            "WHERE application_name ~ ('^' || $1 || '(migrating|backup):') "
            "AND pid <> pg_backend_pid() AND datname = current_database() AND state IS DISTINCT FROM 'idle'"
        )
        for look in range(ORPHAN_LOOKS):
            pids = await self._connection.fetchval(at_work, self.lock.key.label, timeout=ANSWER_SECONDS)
            if not pids:
                return
            if look == ORPHAN_LOOKS - 1:
                await self._end(pids)
            await asyncio.sleep(ORPHAN_LOOK_SECONDS)

    async def _end(self, pids: list[int]) -> None:
        log.warning("Ending %s: at work without the lock", pids, extra={"event": "orphan_ended"})
        try:
            await self._connection.execute("SELECT pg_terminate_backend(unnest($1::int[]))", pids)
        except asyncpg.InsufficientPrivilegeError as error:
            raise PrivilegeMissing(
                f"sessions {pids} of another role seem to migrate without the lock, and this role may not end them; "
                "look into pg_stat_activity, then 'SELECT pg_terminate_backend(pid)' as that role"
            ) from error
