"""How a revision asks for its table locks: briefly, then again, a little longer each time.

A statement that queues for a table lock stalls everybody who comes after it, readers too, for exactly as long as it
queues: `lock_timeout` *is* the worst stall.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

from .limits import Limits, milliseconds


@dataclass(frozen=True)
class LockTimeouts:
    """The lock timeouts of a revision's attempts, in seconds, and the pauses between them.

    The first rungs cost readers little. They never get past autovacuum, which yields only at the deadlock check
    (`deadlock_timeout`, 1 s by default), so the last rung is always half a second longer than that.
    """

    last_seconds: float = 2.0
    first_seconds: tuple[float, ...] = (0.3, 0.6)
    longest_delay_seconds: float = 30.0

    @classmethod
    def for_server(cls, limits: Limits, deadlock_timeout_seconds: float) -> LockTimeouts:
        """The ladder up to the limit that was set, or as far above it as the server's deadlock check demands.

        The pauses stay well below the idle limit, at which the server would end the session that holds the lock.
        """
        delay = min(cls.longest_delay_seconds, limits.idle_seconds / 2 or cls.longest_delay_seconds)
        if not limits.lock_timeout_seconds:
            return cls(0.0, (), delay)
        last = max(limits.lock_timeout_seconds, deadlock_timeout_seconds + 0.5)
        return cls(last, tuple(timeout_for for timeout_for in cls.first_seconds if timeout_for < last), delay)

    def timeout_for(self, attempt: int) -> float:
        """The lock timeout of an attempt (the first is 1) in seconds; 0 is none."""
        return (*self.first_seconds, self.last_seconds)[min(attempt, len(self.first_seconds) + 1) - 1]

    def delay(self, attempt: int) -> float:
        """Seconds to wait after an attempt that did not get its lock: full jitter, at most 30."""
        return random.uniform(0.05, min(self.longest_delay_seconds, 0.25 * 2.0 ** min(attempt, 16)))  # noqa: S311


class LockRetrySchedule:
    """Which rung each revision of a session has climbed to.

    `limits_of` gives a revision's limits: its own where it declares some, else the session's.
    """

    def __init__(self, limits_of: Callable[[str], Limits]) -> None:
        self.deadlock_timeout_seconds = 1.0
        """The server's, once it was asked."""
        self._limits_of = limits_of
        self._contended: Counter[str] = Counter()

    def limits(self, revision: str) -> Limits:
        """The limits of the revision's next attempt."""
        limits = self._limits_of(revision)
        return replace(limits, lock_timeout_seconds=self._timeouts(limits).timeout_for(1 + self._contended[revision]))

    def settings(self, revision: str) -> dict[str, str]:
        """The same as settings of PostgreSQL's."""
        limits = self.limits(revision)
        return {
            "lock_timeout": milliseconds(limits.lock_timeout_seconds),
            "statement_timeout": milliseconds(limits.statement_timeout_seconds),
        }

    def contended(self, revision: str) -> tuple[int, float]:
        """An attempt did not get its lock: its number (the first is 1), and the seconds to pause before the next."""
        self._contended[revision] += 1
        attempt = self._contended[revision]
        return attempt, self._timeouts(self._limits_of(revision)).delay(attempt)

    def _timeouts(self, limits: Limits) -> LockTimeouts:
        return LockTimeouts.for_server(limits, self.deadlock_timeout_seconds)
