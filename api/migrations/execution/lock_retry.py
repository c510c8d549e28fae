"""The retry schedule of table locks: a revision waits briefly for a lock, is rolled back, and waits longer next time.

A statement that waits for a table lock blocks every later statement on the table, reads too: `lock_timeout` is the
longest stall. The migration lock stays held between the attempts, for at most MIGRATION_RUN_SECONDS. Behind a
transaction pooler it is released with each rollback, and the next lock holder retries, until MIGRATION_WAIT_SECONDS.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from ..core.protocols import MigrationRequest
from ..errors import LockContended, RevisionFailed
from .limits import Limits, milliseconds


@dataclass(frozen=True)
class LockTimeouts:
    """The lock timeout of each attempt at a revision, and the pauses between the attempts.

    The first timeouts cost readers little, but autovacuum yields only at the deadlock check (`deadlock_timeout`, by
    default 1 s). So the last timeout is at least half a second longer than that.
    """

    last_seconds: float = 2.0
    first_seconds: tuple[float, ...] = (0.3, 0.6)
    longest_delay_seconds: float = 30.0

    @classmethod
    def for_server(cls, limits: Limits, deadlock_timeout_seconds: float) -> LockTimeouts:
        """The timeouts up to the configured one, or up to the one that the server's deadlock check requires.

        A pause is at most half the idle limit, after which the server terminates the lock holder's session.
        """
        delay = min(cls.longest_delay_seconds, limits.idle_seconds / 2 or cls.longest_delay_seconds)
        if not limits.lock_timeout_seconds:
            return cls(0.0, (), delay)
        last = max(limits.lock_timeout_seconds, deadlock_timeout_seconds + 0.5)
        return cls(last, tuple(seconds for seconds in cls.first_seconds if seconds < last), delay)

    def timeout_for(self, attempt: int) -> float:
        """The lock timeout of an attempt (the first is 1) in seconds; 0 means no timeout."""
        return (*self.first_seconds, self.last_seconds)[min(attempt, len(self.first_seconds) + 1) - 1]

    def delay(self, attempt: int) -> float:
        """Seconds to pause after a contended attempt: random, at most `longest_delay_seconds`."""
        return random.uniform(0.05, min(self.longest_delay_seconds, 0.25 * 2.0 ** min(attempt, 16)))  # noqa: S311


class LockRetrySchedule:
    """Counts the contended attempts at each revision; `limits_of` returns a revision's own limits or the session's."""

    def __init__(self, limits_of: Callable[[str], Limits]) -> None:
        self.deadlock_timeout_seconds = 1.0
        """PostgreSQL's default, until the session reads the server's value."""
        self._limits_of = limits_of
        self._contended_attempts: Counter[str] = Counter()

    def limits(self, revision: str) -> Limits:
        """The limits of the revision's next attempt."""
        limits = self._limits_of(revision)
        timeout = self._timeouts(limits).timeout_for(1 + self._contended_attempts[revision])
        return replace(limits, lock_timeout_seconds=timeout)

    def settings(self, revision: str) -> dict[str, str]:
        """The limits of the revision's next attempt, as PostgreSQL's settings."""
        limits = self.limits(revision)
        return {
            "lock_timeout": milliseconds(limits.lock_timeout_seconds),
            "statement_timeout": milliseconds(limits.statement_timeout_seconds),
        }

    def record_contention(self, revision: str) -> tuple[int, float]:
        """Count a contended attempt; return its number (the first is 1) and the pause after it in seconds."""
        self._contended_attempts[revision] += 1
        attempt = self._contended_attempts[revision]
        return attempt, self._timeouts(self._limits_of(revision)).delay(attempt)

    def forget(self, revision: str) -> None:
        """Count the contended attempts at the revision anew, because it went on."""
        del self._contended_attempts[revision]

    def _timeouts(self, limits: Limits) -> LockTimeouts:
        return LockTimeouts.for_server(limits, self.deadlock_timeout_seconds)


async def retry_while_contended(
    run: Callable[[], Awaitable[None]],
    request: MigrationRequest,
    schedule: LockRetrySchedule,
    report: Callable[[str, int, float], None],
    pause: Callable[[str, int, float], Awaitable[None]],
    *,
    again: bool = True,
) -> None:
    """Call `run` until each revision has acquired its table locks.

    After a contended attempt, `report` and then `pause` receive the revision, the attempt's number and the pause in
    seconds; `pause` sleeps.

    Raises:
        RevisionFailed: a relative request was contended after it had committed a revision.
        LockContended: not `again`, so another lock holder retries; its `pause_seconds` are set.
    """
    while True:
        try:
            return await run()
        except LockContended as error:
            if request.relative and error.applied and again:
                raise _not_retried(request, error) from error
            attempt, error.pause_seconds = schedule.record_contention(error.revision)
            report(error.revision, attempt, error.pause_seconds)
            if not again:
                raise
            await pause(error.revision, attempt, error.pause_seconds)


def _not_retried(request: MigrationRequest, error: LockContended) -> RevisionFailed:
    return RevisionFailed(
        f"{error.message}. The run is not retried: it already committed {', '.join(error.applied)}, and the relative "
        f"target {request.target} counts from the current revision. To fix: name the target revision",
        revision=error.revision,
        applied=error.applied,
    )
