"""How long a revision waits for a table lock in each attempt, and how it is retried."""

import pytest

from api.migrations.core.protocols import MigrationRequest
from api.migrations.errors import LockContended, RevisionFailed
from api.migrations.execution.limits import Limits
from api.migrations.execution.lock_retry import LockRetrySchedule, LockTimeouts, retry_while_contended

DEADLOCK_SECONDS = 1.0
ATTEMPTS = range(1, 40)
HEAD = MigrationRequest("upgrade", "head")


def timeouts(lock_timeout_seconds: float = 2.0, idle_seconds: float = 60.0) -> LockTimeouts:
    """Return the timeouts on a server that checks for deadlocks after 1 s."""
    return LockTimeouts.for_server(Limits(lock_timeout_seconds, 0.0, idle_seconds), DEADLOCK_SECONDS)


def first_five(lock_timeouts: LockTimeouts) -> list[float]:
    """Return the lock timeouts of the first five attempts, in seconds."""
    return [lock_timeouts.timeout_for(attempt) for attempt in range(1, 6)]


def test_the_first_timeouts_are_short() -> None:
    """The first two lock timeouts are 0.3 and 0.6 s, and then the configured timeout repeats."""
    assert first_five(timeouts(2.0)) == [0.3, 0.6, 2.0, 2.0, 2.0]
    assert first_five(timeouts(30.0)) == [0.3, 0.6, 30.0, 30.0, 30.0]


@pytest.mark.parametrize("limit", [0.1, 0.5, 1.0, 1.4])
def test_the_last_timeout_outlasts_the_deadlock_check(limit: float) -> None:
    """Autovacuum yields only at the deadlock check, so a shorter timeout would never acquire the lock."""
    assert first_five(timeouts(limit)) == [0.3, 0.6, 1.5, 1.5, 1.5]


def test_the_last_timeout_follows_the_server() -> None:
    """A late deadlock check of the server lengthens the last timeout, and an early one leaves it as configured."""
    assert LockTimeouts.for_server(Limits(2.0), 5.0).last_seconds == 5.5
    assert LockTimeouts.for_server(Limits(2.0), 0.01).last_seconds == 2.0


def test_no_timeout_is_longer_than_the_last() -> None:
    """A short limit on a server with an early deadlock check leaves out the longer first timeouts."""
    assert first_five(LockTimeouts.for_server(Limits(0.4), 0.01)) == pytest.approx([0.3, 0.51, 0.51, 0.51, 0.51])


def test_no_limit_means_no_timeout() -> None:
    """MIGRATION_LOCK_TIMEOUT_SECONDS=0 disables the lock timeout, as PostgreSQL's own 0 does."""
    assert first_five(timeouts(0)) == [0.0] * 5


def test_pauses_grow_and_are_bounded() -> None:
    """The first pause is at most 0.5 s, no pause exceeds 30 s, and instances draw different pauses."""
    pauses = [[timeouts().delay(attempt) for _ in range(50)] for attempt in ATTEMPTS]
    assert all(0.05 <= pause <= 30 for each in pauses for pause in each)
    assert max(pauses[0]) <= 0.5
    assert max(pauses[-1]) > 5
    assert len(set(pauses[-1])) > 40


@pytest.mark.parametrize("limit", [0.0, 2.0])
@pytest.mark.parametrize(("idle", "bound"), [(10, 5), (60, 30), (3600, 30), (0, 30)])
def test_no_pause_outlasts_the_idle_limit(limit: float, idle: float, bound: float) -> None:
    """A pause is at most half of the idle limit, at which the server would terminate the session and its lock."""
    lock_timeouts = timeouts(limit, idle)
    assert lock_timeouts.longest_delay_seconds == bound
    assert max(lock_timeouts.delay(attempt) for attempt in ATTEMPTS for _ in range(50)) <= bound


def test_attempts_are_counted_for_each_revision() -> None:
    """A contended revision waits longer at its next attempt, and another revision starts with the first timeout."""
    schedule = LockRetrySchedule(lambda revision: Limits(lock_timeout_seconds=2))
    assert [schedule.record_contention("slow")[0] for _ in range(2)] == [1, 2]
    assert [schedule.settings(name)["lock_timeout"] for name in ("slow", "other")] == ["2000ms", "300ms"]


def test_a_revision_may_declare_its_own_limits() -> None:
    """A revision's own limits set its last lock timeout and statement timeout; its first lock timeouts stay short."""
    own = {"patient": Limits(lock_timeout_seconds=30, statement_timeout_seconds=600)}
    schedule = LockRetrySchedule(lambda revision: own.get(revision, Limits()))
    assert schedule.settings("patient") == {"lock_timeout": "300ms", "statement_timeout": "600000ms"}
    for _ in range(2):
        schedule.record_contention("patient")
    assert schedule.settings("patient")["lock_timeout"] == "30000ms"
    assert schedule.settings("other")["statement_timeout"] == "0ms"


def test_the_limits_are_those_of_the_next_attempt() -> None:
    """From attempt to attempt only the lock timeout of a revision's limits changes."""
    schedule = LockRetrySchedule(lambda revision: Limits(2, 30, 40))
    for seconds in (0.3, 0.6, 2):
        assert schedule.limits("slow") == Limits(seconds, 30, 40)
        schedule.record_contention("slow")
    assert schedule.limits("other") == Limits(0.3, 30, 40)


class Attempts:
    """A run that is contended a number of times, with the reports and pauses that follow."""

    def __init__(self, contended: int, applied: tuple[str, ...] = ()) -> None:
        self.made = 0
        self.reports: list[tuple[str, int, float]] = []
        self.pauses: list[tuple[str, int, float]] = []
        self._contended = contended
        self._applied = applied

    async def run(self) -> None:
        """Make one attempt."""
        self.made += 1
        if self.made <= self._contended:
            raise LockContended("r2 lacked its lock", "r2", self._applied)

    def report(self, revision: str, attempt: int, seconds: float) -> None:
        """Record a report."""
        self.reports.append((revision, attempt, seconds))

    async def pause(self, revision: str, attempt: int, seconds: float) -> None:
        """Record a pause."""
        self.pauses.append((revision, attempt, seconds))


@pytest.fixture
def schedule(monkeypatch: pytest.MonkeyPatch) -> LockRetrySchedule:
    """Return a schedule with pauses of at most 0.06 s."""
    monkeypatch.setattr(LockTimeouts, "longest_delay_seconds", 0.06)
    return LockRetrySchedule(lambda revision: Limits(idle_seconds=0.12))


async def test_a_run_is_retried_until_it_acquires_its_lock(schedule: LockRetrySchedule) -> None:
    """Each contended attempt is reported with its number and its pause, until the run acquires its table lock."""
    attempts = Attempts(3)
    await retry_while_contended(attempts.run, HEAD, schedule, attempts.report, attempts.pause)
    assert attempts.made == 4
    assert [(revision, attempt) for revision, attempt, _ in attempts.reports] == [("r2", 1), ("r2", 2), ("r2", 3)]
    assert all(0.05 <= seconds <= 0.06 for _, _, seconds in attempts.reports)
    assert attempts.pauses == attempts.reports


async def test_a_relative_request_is_not_retried_after_a_commit(schedule: LockRetrySchedule) -> None:
    """A contended `+2` is not retried after its first revision committed, because it would apply three revisions."""
    attempts, request = Attempts(1, ("r1",)), MigrationRequest("upgrade", "+2")
    with pytest.raises(RevisionFailed, match=r"committed r1, .* target \+2 .*To fix: name") as raised:
        await retry_while_contended(attempts.run, request, schedule, attempts.report, attempts.pause)
    assert (raised.value.revision, raised.value.applied, attempts.made) == ("r2", ("r1",), 1)


async def test_a_relative_request_without_a_commit_is_retried(schedule: LockRetrySchedule) -> None:
    """A contended `-1` is retried if it has committed nothing."""
    attempts, request = Attempts(1), MigrationRequest("downgrade", "-1")
    await retry_while_contended(attempts.run, request, schedule, attempts.report, attempts.pause)
    assert attempts.made == 2


async def test_without_the_lock_another_holder_retries(schedule: LockRetrySchedule) -> None:
    """A rollback released the lock: the error carries the pause, and the next lock holder retries."""
    attempts = Attempts(1)
    with pytest.raises(LockContended) as raised:
        await retry_while_contended(attempts.run, HEAD, schedule, attempts.report, attempts.pause, again=False)
    assert raised.value.pause_seconds == attempts.reports[0][2] > 0
    assert attempts.pauses == []
