"""An attempt is made again until it succeeds, fails, or the wait budget ends.

A connection that is lost while a revision runs may have been ended by anything, so the attempt is made again. When the
same order loses it again in the same revision, that revision has failed: it may end its own session, or crash the
server for everyone. The failure is recorded on a new connection, because the lock ended with the old one.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable

from ..errors import ConnectionLost, DatabaseUnreachable, LockContended, MigrationError, RevisionFailed
from .protocols import MigrationSession
from .reporter import ProgressReporter
from .schema import CodeRevisions
from .status import Status
from .wait_budget import WaitBudget

log = logging.getLogger(__name__)

Attempt = Callable[[], Awaitable[None]]
Record = Callable[[ConnectionLost, RevisionFailed], Awaitable[None]]


class Retries:
    """Those of one order; `record` does what this module's function of that name says, on a session of its own."""

    def __init__(self, wait_budget: WaitBudget, reporter: ProgressReporter, record: Record) -> None:
        self._wait_budget = wait_budget
        self._reporter = reporter
        self._record = record
        self._losses: Counter[tuple[str | None, str]] = Counter()

    async def until_done(self, attempt: Attempt) -> None:
        """Make the attempt as often as it takes.

        Raises:
            RevisionFailed: among others, where the connection was lost in the same revision again.
            MigrationError: it failed, or the wait budget has ended.
        """
        while not await self._survives(attempt):
            pass

    def broken_off(self, error: DatabaseUnreachable | LockContended, schema: str | None = None) -> None:
        """A run (in that schema, where there are several) ended without a result: count it, and a lost connection."""
        if isinstance(error, ConnectionLost):
            self._losses[schema, error.revision] += 1
            error.repeated = self._losses[schema, error.revision] > 1
        if not (isinstance(error, ConnectionLost) and error.repeated):
            self._reporter.interrupted()

    async def _survives(self, attempt: Attempt) -> bool:
        # by then what cannot go on is closed: it may hold the lock, or a connection that others need
        try:
            await attempt()
        except DatabaseUnreachable as error:
            if isinstance(error, ConnectionLost) and error.repeated:
                await self._fail(error)
            else:
                await self._wait_budget.wait_for_database(error)
        except LockContended as error:
            await self._wait_budget.wait_for_table(error)
        else:
            return True
        return False

    async def _fail(self, error: ConnectionLost) -> None:
        """Raise the failure of the revision, recorded if possible; return where it was committed after all."""
        failure = _failure(error)
        try:
            await self.until_done(lambda: self._record(error, failure))
        except MigrationError as trouble:
            if trouble is not failure:
                log.warning("The failure could not be recorded: %s", trouble, extra={"event": "not_recorded"})
            self._reporter.ended("failed", str(failure))
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
    # COMMIT may have been under way; fail_attempt has waited for its end, whichever it was
    if (error.revision in code.pending((await session.store.observe()).revisions)) is error.upgrade:
        raise failure


def _failure(error: ConnectionLost) -> RevisionFailed:
    return RevisionFailed(
        f"revision {error.name} failed: the connection was lost twice while it ran (last words: {error.last_words}). "
        "Either the revision ends its own session, crashes the server or exceeds a limit (MIGRATION_IDLE_SECONDS "
        "between two statements, a timeout that it sets, max_allowed_packet), or the server was restarted both times. "
        "To fix: read the server's log and correct the revision; if it was not the revision, start again (or run "
        "'./migrate.sh upgrade')",
        revision=error.revision,
    )
