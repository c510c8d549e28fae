"""Waits for the lock holder, a locked table or an unreachable database, until the wait budget ends with an error."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from datetime import UTC, datetime

from ..errors import (
    DatabaseUnreachable,
    LockContended,
    NoConnectionLeft,
    OldInstances,
    TableLockTimeout,
    WaitTimeout,
    in_full,
)
from .clock import Backoff, Clock, Deadline, jittered
from .decision import AttemptHistory, Policy
from .protocols import MigrationSession
from .schema import Schema, SchemaState, explain
from .status import Limit, LockStatus, Phase, Tracker

log = logging.getLogger(__name__)

LOCK_STATUS_EVERY_SECONDS = 5.0
LOG_EVERY_SECONDS = 10.0
INSTANCES_EVERY_SECONDS = 2.0
"""Between two looks for instances of older builds, which need some seconds to stop."""
WAITERS_AT_FULL_RATE, SLOWEST = 10, 4.0
"""More waiters poll and read the lock status less often each, down to a quarter as often."""
_START_AGAIN = "start again; if the migration needs longer, raise MIGRATION_WAIT_SECONDS (and MIGRATION_RUN_SECONDS)"
_BLOCKED = "terminate the session that blocks the migration, then start again; a larger budget does not help"
_FREE_CONNECTIONS = "terminate sessions that are idle, as a superuser, or stop instances, then start again"
_CHECK_DATABASE = "check that the database runs and that the URL names it, then start again"


class WaitBudget:
    """The wait budget of one instance, which begins with this object, and the messages of the wait."""

    def __init__(self, tracker: Tracker, policy: Policy, clock: Clock) -> None:
        self._tracker = tracker
        self._policy = policy
        self._clock = clock
        self._started = clock.monotonic()
        self._deadline = Deadline.after(policy.wait_seconds, self._started)
        self._errors_in_a_row = 0
        self._lock_status_read = self._logged = float("-inf")

    @property
    def lived_seconds(self) -> float:
        """The seconds since the budget began."""
        return self._clock.monotonic() - self._started

    @property
    def limit(self) -> Limit:
        """When the budget ends."""
        return Limit(time.time() + self._deadline.remaining(self._clock.monotonic()), "MIGRATION_WAIT_SECONDS")

    def answered(self) -> None:
        """Reset the backoff, because the database has answered."""
        self._errors_in_a_row = 0

    async def wait(self, session: MigrationSession, schema: Schema, attempt_history: AttemptHistory) -> bool:
        """Pause between two reads of the schema, and report the lock holder.

        Returns whether to read the schema again: not if the lock holder has not notified, except every 5 s
        (20 s among many waiters).

        Raises:
            WaitTimeout: the budget has ended.
        """
        now, slower = self._clock.monotonic(), self._slower
        dirty = schema.state is SchemaState.DIRTY and self._tracker.status.lock_status.holder is None
        if due := dirty or now - self._lock_status_read >= LOCK_STATUS_EVERY_SECONDS * slower:
            self._lock_status_read = now
            await self._read_lock_status(session)
        self._begin_to_wait()
        # a revision that commits by itself is recorded as half applied while the lock holder runs it
        schema = schema if self._tracker.status.lock_status.holder is None else self._tracker.status.schema
        message = self._waiting_message(schema, attempt_history, now)
        self._tracker.note(message=message, schema=schema)
        if self._deadline.passed(now):
            blocked = self._tracker.status.lock_status.blocked_by
            seen = f"as seen at {datetime.now(UTC):%H:%M:%S} UTC, {message}"
            raise WaitTimeout(self._timed_out(seen, _BLOCKED if blocked else _START_AGAIN))
        if now - self._logged >= LOG_EVERY_SECONDS:
            self._logged = now
            log.info("Waiting: %s; %s", in_full(message), self._countdown(), extra={"event": "waiting"})
        poll, remaining = jittered(self._policy.poll_seconds), self._deadline.remaining(now)
        # a listening waiter polls only because a killed lock holder does not notify
        return await session.pause(min(poll, remaining), min(poll * slower, remaining)) or due

    async def wait_for_table(self, error: LockContended) -> None:
        """Pause after a contended run whose rollback released the migration lock; another instance may continue.

        Raises:
            TableLockTimeout: the budget has ended.
        """
        now = self._clock.monotonic()
        if self._deadline.passed(now):
            raise TableLockTimeout(self._timed_out(error.message, _BLOCKED), revision=error.revision)
        self._begin_to_wait()
        await self._clock.sleep(min(error.pause_seconds, self._deadline.remaining(now)))

    async def wait_for_instances(self, error: OldInstances) -> None:
        """Pause because instances of older builds are connected; the migration lock is free meanwhile.

        Raises:
            OldInstances: the budget has ended.
        """
        now = self._clock.monotonic()
        seen = LockStatus(blocked_by=error.blockers)
        self._tracker.note(message=error.message, lock_status=seen)
        if self._deadline.passed(now):
            raise OldInstances(self._timed_out(error.message, ""), blockers=error.blockers)
        self._begin_to_wait()
        if now - self._logged >= LOG_EVERY_SECONDS:
            self._logged = now
            log.warning("Waiting: %s; %s", error, self._countdown(), extra={"event": "old_instances"})
        await self._clock.sleep(min(jittered(INSTANCES_EVERY_SECONDS), self._deadline.remaining(now)))

    async def wait_for_database(self, error: DatabaseUnreachable) -> None:
        """Pause after a connection that failed or was lost.

        Raises:
            DatabaseUnreachable: the budget has ended.
        """
        now = self._clock.monotonic()
        if self._deadline.passed(now):
            if isinstance(error, NoConnectionLeft):
                raise NoConnectionLeft(self._timed_out(error.message, _FREE_CONNECTIONS)) from error
            raise DatabaseUnreachable(self._timed_out(error.message, _CHECK_DATABASE)) from error
        self._errors_in_a_row += 1
        if self._tracker.status.phase is not Phase.CHECKING:
            self._begin_to_wait()
        message, error_class = f"waiting for the database: {error.message}", type(error)
        self._tracker.note(reachable=False, message=message, error_class=error_class, lock_status=LockStatus())
        if now - self._logged >= LOG_EVERY_SECONDS:
            self._logged = now
            extra = {"event": "database_unreachable"}
            log.warning("Waiting for the database: %s; %s", error, self._countdown(), extra=extra)
        delay = Backoff().delay(self._errors_in_a_row)
        await self._clock.sleep(min(delay, self._deadline.remaining(now)))

    @property
    def _slower(self) -> float:
        waiters = sum(member.role == "waiting" for member in self._tracker.status.lock_status.fleet)
        return min(max(1.0, waiters / WAITERS_AT_FULL_RATE), SLOWEST)

    def _countdown(self) -> str:
        from .countdown import countdown  # a start at head does not need it

        return countdown(self._tracker.status, time.time())

    def _timed_out(self, reason: str, remedy: str) -> str:
        to_fix = "" if "To fix:" in reason else f". To fix: {remedy}"
        return f"timed out after MIGRATION_WAIT_SECONDS={self._deadline.budget_seconds:g}: {reason}{to_fix}"

    async def _read_lock_status(self, session: MigrationSession) -> None:
        lock_status, progress = await session.lock_status(), self._tracker.status.progress
        if (retry := lock_status.retry) is not None:
            progress = replace(progress, attempt=retry.attempt, next_try_at=time.time() + retry.seconds)
        else:
            progress = replace(progress, next_try_at=None)
        self._tracker.note(lock_status=lock_status, progress=progress)

    def _waiting_message(self, schema: Schema, attempt_history: AttemptHistory, now: float) -> str:
        lock_status = self._tracker.status.lock_status
        if schema.state is SchemaState.DIRTY:
            # no instance retries before a person has repaired it, and the failure is what made it dirty
            return f"{explain(schema)}; {lock_status}; waited {now - self._started:.0f} s"
        # a lock holder has started the next attempt already
        paused = attempt_history.pause_seconds and lock_status.holder is None
        pause = f"; the next attempt is in {attempt_history.pause_seconds:.0f} s" if paused else ""
        died = "; the processes of the last attempts died or lost the connection" if paused else ""
        failed = f"; the last attempt failed: {attempt_history.failure.message}" if attempt_history.failure else died
        return f"{explain(schema)}; {lock_status}; waited {now - self._started:.0f} s{pause}{failed}"

    def _begin_to_wait(self) -> None:
        if self._tracker.status.phase is not Phase.WAITING:
            self._tracker.move(Phase.WAITING, waiting_since=self._tracker.status.since, limit=self.limit)
