"""Retries a request until it succeeds, fails, or the wait budget ends.

A connection that is lost while a revision runs is retried, because the cause is unknown. If the same request loses it
again in the same revision, the revision has failed: it may terminate its own session, or crash the server. The failure
is recorded on a new connection, because the old one has released the lock.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable

from ..errors import (
    COMMAND,
    ConnectionLost,
    DatabaseUnreachable,
    LockContended,
    MigrationError,
    OldInstances,
    RevisionFailed,
)
from .protocols import MigrationSession
from .reporter import ProgressReporter
from .schema import CodeRevisions
from .status import Status
from .wait_budget import WaitBudget

log = logging.getLogger(__name__)

RecordFailure = Callable[[ConnectionLost, RevisionFailed], Awaitable[None]]


class Retries:
    """The retries of one request; `record` calls this module's `record` with a new session."""

    def __init__(self, wait_budget: WaitBudget, reporter: ProgressReporter, record: RecordFailure) -> None:
        self._wait_budget = wait_budget
        self._reporter = reporter
        self._record = record
        self._losses: Counter[tuple[str | None, str]] = Counter()

    async def until_done(self, attempt: Callable[[], Awaitable[None]]) -> None:
        """Retry the attempt until it succeeds.

        Raises:
            RevisionFailed: a revision failed, or the connection was lost in the same revision again.
            MigrationError: the attempt failed, or the wait budget has ended.
        """
        while not await self._attempt(attempt):
            pass

    def count_interruption(
        self, error: DatabaseUnreachable | LockContended | OldInstances, name: str | None = None
    ) -> None:
        """Count a run without a result, and its lost connection; `name` is the scope's if there are several."""
        if isinstance(error, ConnectionLost):
            self._losses[name, error.revision] += 1
            error.repeated = self._losses[name, error.revision] > 1
        if not (isinstance(error, ConnectionLost) and error.repeated):
            self._reporter.interrupted()

    async def _attempt(self, attempt: Callable[[], Awaitable[None]]) -> bool:
        # the failed attempt has closed its session, which may have held the lock
        try:
            await attempt()
        except DatabaseUnreachable as error:
            if isinstance(error, ConnectionLost) and error.repeated:
                await self._fail(error)
            else:
                await self._wait_budget.wait_for_database(error)
        except LockContended as error:
            await self._wait_budget.wait_for_table(error)
        except OldInstances as error:
            await self._wait_budget.wait_for_instances(error)
        else:
            return True
        return False

    async def _fail(self, error: ConnectionLost) -> None:
        """Record the revision's failure if possible, and raise it; return if the revision was committed after all."""
        failure = _failure(error)
        try:
            await self.until_done(lambda: self._record(error, failure))
        except MigrationError as trouble:
            if trouble is not failure:
                log.warning("The failure could not be recorded: %s", trouble, extra={"event": "not_recorded"})
            self._reporter.ended("failed", failure.message)
            raise failure from error
        self._reporter.interrupted()
        await self._wait_budget.wait_for_database(error)


async def record(
    session: MigrationSession, error: ConnectionLost, failure: RevisionFailed, code: CodeRevisions, status: Status
) -> None:
    """Record on `session` that the revision has failed, unless it was committed after all.

    Raises:
        RevisionFailed: `failure`, once it is recorded.
    """
    age_seconds = time.time() - (status.progress.started_at or 0.0)
    await session.store.record_failure(
        str(failure), error.revision if error.upgrade else None, age_seconds, error.error_class
    )
    # read after the record, which has waited for a COMMIT that was in progress
    if (error.revision in code.pending((await session.store.observe()).revisions)) is error.upgrade:
        raise failure


def _failure(error: ConnectionLost) -> RevisionFailed:
    return RevisionFailed(
        f"revision {error.name} failed: the connection was lost twice while it ran (last error: {error.last_words}). "
        "Either the revision terminates its own session, crashes the server or exceeds a limit (MIGRATION_IDLE_SECONDS "
        "between two statements, a timeout that it sets, max_allowed_packet), or the server was restarted both times. "
        "To fix: read the server's log and correct the revision; if the server was only restarted, start again or run "
        f"'{COMMAND} upgrade'",
        revision=error.revision,
    )
