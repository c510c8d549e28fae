"""The time limit of a run: the timeout is recorded, the run is cancelled, then its outcome is read from the database.

The record comes first, because the cancelled connection may release the lock, and a waiter must not start the same run.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from ..errors import COMMAND, DatabaseUnreachable, MigrationError, RunTimeout, TableLockTimeout, in_full
from .protocols import MigrationRequest, MigrationSession
from .reporter import ProgressReporter
from .schema import RUNS_AGAIN, CodeRevisions, Observed
from .status import Limit, Status, Tracker

log = logging.getLogger(__name__)

HOOKS = {"before", "after"}
"""The application's functions, as they are named in the progress."""
_MORE_TIME = f"raise it (and MIGRATION_WAIT_SECONDS), or run '{COMMAND} upgrade' before the release"
_NOT_BLOCKED = f"terminate the session that blocks it ('{COMMAND} status' names it), then run '{COMMAND} upgrade'"
RECORD_SECONDS = 2.0
"""How much longer a run may last if the database does not answer the record of its timeout."""


@asynccontextmanager
async def within_budget(
    session: MigrationSession, tracker: Tracker, reporter: ProgressReporter, run_seconds: float
) -> AsyncIterator[None]:
    """`asyncio.timeout` for a run, recorded on a second `session` before it cancels the run.

    From the timeout on, `reporter` lets no further revision begin.

    Raises:
        TimeoutError: the run was cancelled.
    """
    tracker.note(limit=Limit(time.time() + run_seconds, "MIGRATION_RUN_SECONDS"))
    async with asyncio.timeout(None) as limit:
        end = asyncio.create_task(_end(limit, session, tracker, reporter, run_seconds), name="run-budget")
        try:
            yield
        finally:
            if not limit.expired():
                # a finished run must not be cancelled
                limit.reschedule(None)
            reporter.time_is_up = False
            end.cancel()
            await asyncio.gather(end, return_exceptions=True)


async def _end(
    limit: asyncio.Timeout,
    session: MigrationSession,
    tracker: Tracker,
    reporter: ProgressReporter,
    run_seconds: float,
) -> None:
    await asyncio.sleep(run_seconds)
    reporter.time_is_up = True
    if tracker.status.progress.current is not None:
        # the run is cancelled even if the record fails
        with suppress(Exception):
            async with asyncio.timeout(RECORD_SECONDS):
                await session.open()
                await session.store.record_timeout(in_full(_cancelled(tracker.status, run_seconds, half=False)))
    limit.reschedule(asyncio.get_running_loop().time())


async def settle_timeout(
    session: MigrationSession,
    request: MigrationRequest,
    code: CodeRevisions,
    tracker: Tracker,
    reporter: ProgressReporter,
    run_seconds: float,
) -> None:
    """Return if the cancelled run committed everything; otherwise record its outcome on `session`, and raise it."""
    failure = await outcome_of_timeout(session, tracker.status, run_seconds, request, code)
    if failure is None:
        message = "Everything was committed when the run was cancelled after MIGRATION_RUN_SECONDS=%g"
        log.warning(message, run_seconds, extra={"event": "run_ended_late"})
        return
    if isinstance(failure, DatabaseUnreachable):
        reporter.interrupted()
    else:
        reporter.ended("failed", failure.message)
    raise failure


async def outcome_of_timeout(
    session: MigrationSession, status: Status, run_seconds: float, request: MigrationRequest, code: CodeRevisions
) -> MigrationError | None:
    """Record the outcome of the cancelled run on `session`, and return it; None if everything is committed."""
    progress, current = status.progress, status.progress.current
    if current not in HOOKS and 0 < progress.total <= progress.applied:
        return None
    try:
        again = current in code.idempotent
        message, half, after = await _recorded(session, status, run_seconds, request, again=again)
    except MigrationError as error:
        unknown = (
            f"revision {current} was cancelled, and its outcome is unknown ({error.message}): {_exceeded(run_seconds)}"
        )
        if isinstance(error, DatabaseUnreachable):
            return DatabaseUnreachable(unknown)
        return RunTimeout(unknown, revision=current)
    if current in HOOKS:
        done = current == "after" and after.completed == code.head
        return None if done else RunTimeout(message, revision=None)
    if request.kind == "upgrade" and after.revisions - code.parents.keys():
        # another instance continued from what this run committed; the next read assesses that
        return None
    pending = code.pending(after.revisions)
    undone = current is not None and (current in pending) is (request.kind == "upgrade")
    applied = progress.applied + (current is not None and not undone)
    if 0 < progress.total <= applied or (request.kind == "upgrade" and not pending):
        return None
    if not undone:
        steps = f"{applied} of {progress.total} steps are committed, and the next start continues from there"
        outcome = steps if progress.total else f"'{COMMAND} status' shows what it committed"
        return RunTimeout(f"the run was cancelled; {outcome}: {_exceeded(run_seconds)}", revision=None)
    kind = TableLockTimeout if _was_blocked(status) and not half else RunTimeout
    return kind(message, revision=current)


async def _recorded(
    session: MigrationSession, status: Status, run_seconds: float, request: MigrationRequest, *, again: bool
) -> tuple[str, bool, Observed]:
    current = status.progress.current
    await session.open()
    half = current in {each.revision for each in (await session.store.observe()).half_applied}
    message = _cancelled(status, run_seconds, half=half, again=again)
    if current is not None:
        age_seconds = time.time() - (status.progress.started_at or 0.0)
        # the session that blocked the revision may block the record too; the outcome is the same
        with suppress(MigrationError):
            missing = current if request.kind == "upgrade" and current not in HOOKS else None
            await session.store.record_failure(in_full(message), missing, age_seconds)
    # read after the record, which has waited for a COMMIT that was in progress
    return message, half, await session.store.observe()


def _cancelled(status: Status, run_seconds: float, *, half: bool, again: bool = False) -> str:
    extent = "after it had committed a part of its work" if half else "and rolled back"
    last = status.message or "; ".join(one.said("blocked") for one in status.lock_status.blocked_by)
    last = f" (last: {last})" if last else ""
    repair = f"; first repair the schema, as '{COMMAND} status' says" if half else ""
    repair = RUNS_AGAIN if half and again else repair
    current = status.progress.current
    remedy = _NOT_BLOCKED if _was_blocked(status) else _MORE_TIME
    what = f"the function '{current}'" if current in HOOKS else f"revision {current}"
    return f"{what} was cancelled {extent}: {_exceeded(run_seconds, last, remedy)}{repair}"


def _exceeded(run_seconds: float, last: str = "", remedy: str = _MORE_TIME) -> str:
    return f"the run did not finish within MIGRATION_RUN_SECONDS={run_seconds:g}{last}. To fix: {remedy}"


def _was_blocked(status: Status) -> bool:
    """Whether the time was spent waiting for another session's lock, so that more time would not have helped."""
    return status.progress.attempt is not None or bool(status.lock_status.blocked_by)
