"""A run whose budget has ended: it is written down, then cancelled, then the database is asked what became of it.

In that order, for the lock may go with the connection that is cancelled, and those who wait must not begin the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from .errors import DatabaseUnreachable, MigrationError, RevisionFailed, TableLockTimeout
from .ports import MigrationSession, Order
from .schema import Observed
from .state import Status, Tracker

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
            end.cancel()
            await asyncio.gather(end, return_exceptions=True)


async def _end(limit: asyncio.Timeout, session: MigrationSession, tracker: Tracker, run_seconds: float) -> None:
    await asyncio.sleep(run_seconds)
    with suppress(MigrationError, TimeoutError):
        async with asyncio.timeout(FOREWARN_SECONDS):
            await session.forewarn(_message(tracker.status, run_seconds, half=False))
    limit.reschedule(asyncio.get_running_loop().time())


async def ran_out_of_time(
    session: MigrationSession, status: Status, run_seconds: float, order: Order
) -> MigrationError:
    """Record the failure on a `session` of its own, and return it; or that there is none, for COMMIT was under way."""
    current, after = str(status.progress.current), Observed()
    message = _message(status, run_seconds, half=False)
    with suppress(MigrationError):
        await session.open()
        half = current in {half.revision for half in (await session.observe()).half_applied}
        message = _message(status, run_seconds, half=half)
        await session.fail_attempt(message, current if order.kind == "upgrade" else None)
        # COMMIT may have been under way; fail_attempt has waited for its end, whichever it was
        after = await session.observe()
    if order.kind == "upgrade" and current in after.revisions:
        budget = f"MIGRATION_RUN_SECONDS={run_seconds:g}"
        return DatabaseUnreachable(f"revision {current} is committed, but the answer did not come within {budget}")
    # tried again and again, it was somebody's lock that took the time
    waited = status.progress.attempt is not None and "rolled back" in message
    return (TableLockTimeout if waited else RevisionFailed)(message, revision=current)


def _message(status: Status, run_seconds: float, *, half: bool) -> str:
    how = "after it had committed a part of its work" if half else "and rolled back"
    last = f"; last: {status.message}" if status.message else ""
    return (
        f"revision {status.progress.current} was cancelled {how}: the run did not finish within "
        f"MIGRATION_RUN_SECONDS={run_seconds:g}; raise it (and MIGRATION_WAIT_SECONDS), or run "
        f"'./migrate.sh upgrade' before the release{last}"
    )
