"""A revision that did not get its table locks is tried again.

Each revision asks briefly, and is tried again whole if it did not get its lock and nothing was committed inside it.
The lock stays held in between; the run's budget (MIGRATION_RUN_SECONDS) ends the tries. Behind a transaction pooler the
lock goes with the transaction, so whoever gets it next tries, and MIGRATION_WAIT_SECONDS ends the tries.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from ..core.protocols import MigrationRequest
from ..errors import LockContended, RevisionFailed
from .lock_retry import LockRetrySchedule


async def retry_while_contended(
    attempt: Callable[[], Awaitable[None]],
    request: MigrationRequest,
    schedule: LockRetrySchedule,
    contended: Callable[[str, int, float], None],
    rest: Callable[[str, int, float], Awaitable[None]],
    *,
    again: bool = True,
) -> None:
    """Make the `attempt` as often as it takes.

    `contended` hears of revision, attempt and seconds of the pause; `rest` is told the same and returns after it.

    Raises:
        RevisionFailed: a relative order did not get its lock after its first revision.
        LockContended: not `again`; its `pause_seconds` are set.
    """
    while True:
        try:
            return await attempt()
        except LockContended as error:
            if request.relative and error.applied and again:
                raise _not_repeated(request, error) from error
            number, error.pause_seconds = schedule.contended(error.revision)
            contended(error.revision, number, error.pause_seconds)
            if not again:
                raise
            await rest(error.revision, number, error.pause_seconds)


def _not_repeated(request: MigrationRequest, error: LockContended) -> RevisionFailed:
    return RevisionFailed(
        f"{error}. The run is not retried: it already committed {', '.join(error.applied)}, and the relative target "
        f"{request.target} counts from the current revision. To fix: name the target revision",
        revision=error.revision,
        applied=error.applied,
    )
