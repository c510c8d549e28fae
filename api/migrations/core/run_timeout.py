"""A run whose budget has ended: it is written down, then cancelled, then the database is asked what became of it.

In that order, for the lock may go with the connection that is cancelled, and those who wait must not begin the same.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from ..errors import DatabaseUnreachable, MigrationError, RevisionFailed, TableLockTimeout
from .protocols import MigrationRequest, MigrationSession
from .schema import CodeRevisions, Observed
from .status import Status, Tracker

FOREWARN_SECONDS = 2.0
"""How much longer a run may last where the database does not take the note that it is about to be cancelled."""


@asynccontextmanager
async def within_budget(session: MigrationSession, tracker: Tracker, run_seconds: float) -> AsyncIterator[None]:
    """`asyncio.timeout` for a run, whose end is first recorded on a `session` of its own.

    Raises:
        TimeoutError: the budget has ended, and the run was cancelled.
    """
    async with asyncio.timeout(None) as limit:
        end = asyncio.create_task(_end(limit, session, tracker, run_seconds), name="run-budget")
        try:
            yield
        finally:
            if not limit.expired():
                # what has come to its end is not cancelled any more
                limit.reschedule(None)
            end.cancel()
            await asyncio.gather(end, return_exceptions=True)


async def _end(limit: asyncio.Timeout, session: MigrationSession, tracker: Tracker, run_seconds: float) -> None:
    await asyncio.sleep(run_seconds)
    if tracker.status.progress.current is not None:
        # whatever becomes of the note, the budget has ended
        with suppress(Exception):
            async with asyncio.timeout(FOREWARN_SECONDS):
                await session.open()
                await session.store.record_timeout(_cancelled(tracker.status, run_seconds, half=False))
    limit.reschedule(asyncio.get_running_loop().time())


async def ran_out_of_time(
    session: MigrationSession, status: Status, run_seconds: float, request: MigrationRequest, code: CodeRevisions
) -> MigrationError | None:
    """Record on a `session` of its own how the run ended, and return that; None where all of it is committed."""
    progress, current = status.progress, status.progress.current
    if 0 < progress.total <= progress.applied:
        return None
    try:
        message, half, after = await _recorded(session, status, run_seconds, request)
    except MigrationError as error:
        what = f"revision {current} was cancelled, and what became of it is not known ({error}): {_budget(run_seconds)}"
        return DatabaseUnreachable(what) if isinstance(error, DatabaseUnreachable) else _failed(what, current)
    if request.kind == "upgrade" and after.revisions - code.parents.keys():
        # somebody went on from what this run committed: the next look judges that
        return None
    pending = code.pending(after.revisions)
    undone = current is not None and (current in pending) is (request.kind == "upgrade")
    applied = progress.applied + (current is not None and not undone)
    if 0 < progress.total <= applied or (request.kind == "upgrade" and not pending):
        return None
    if not undone:
        return _failed(f"{_budget(run_seconds)}; {_stays(applied, progress.total)}", None)
    # tried again and again, it was somebody's lock that took the time
    kind = TableLockTimeout if progress.attempt is not None and not half else RevisionFailed
    return kind(message, revision=current)


async def _recorded(
    session: MigrationSession, status: Status, run_seconds: float, request: MigrationRequest
) -> tuple[str, bool, Observed]:
    current = status.progress.current
    await session.open()
    half = current in {each.revision for each in (await session.store.observe()).half_applied}
    message = _cancelled(status, run_seconds, half=half)
    if current is not None:
        # what was in the revision's way may be in the way of the record too, which changes nothing about what is there
        age_seconds = time.time() - (status.progress.started_at or 0.0)
        with suppress(MigrationError):
            await session.store.record_failure(message, current if request.kind == "upgrade" else None, age_seconds)
    # COMMIT may have been under way; fail_attempt has waited for its end, whichever it was
    return message, half, await session.store.observe()


def _failed(message: str, revision: str | None) -> RevisionFailed:
    return RevisionFailed(message, revision=revision)


def _cancelled(status: Status, run_seconds: float, *, half: bool) -> str:
    how = "after it had committed a part of its work" if half else "and rolled back"
    last = f"; last: {status.message}" if status.message else ""
    return f"revision {status.progress.current} was cancelled {how}: {_budget(run_seconds)}{last}"


def _stays(applied: int, total: int) -> str:
    if not total:
        return "what was committed by then stays: look with './migrate.sh status'"
    return f"{applied} of {total} steps are committed and stay, and the next start goes on from there"


def _budget(run_seconds: float) -> str:
    return (
        f"the run did not finish within MIGRATION_RUN_SECONDS={run_seconds:g}; raise it (and MIGRATION_WAIT_SECONDS), "
        "or run './migrate.sh upgrade' before the release"
    )
