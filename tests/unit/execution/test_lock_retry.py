"""How long a revision may wait for a lock, in which steps, and with which pauses in between."""

import pytest

from api.migrations.execution.limits import Limits
from api.migrations.execution.lock_retry import LockRetrySchedule, LockTimeouts

DEADLOCK_SECONDS = 1.0
ATTEMPTS = range(1, 40)


def ladder(lock_timeout_seconds: float = 2.0, idle_seconds: float = 60.0) -> LockTimeouts:
    """The ladder on a server that checks for deadlocks after a second."""
    return LockTimeouts.for_server(Limits(lock_timeout_seconds, 0.0, idle_seconds), DEADLOCK_SECONDS)


def rungs(climbed: LockTimeouts) -> list[float]:
    """The lock timeouts of the first five attempts, in seconds."""
    return [climbed.timeout_for(attempt) for attempt in range(1, 6)]


def test_the_first_tries_are_short() -> None:
    """Two that readers hardly notice, and then the limit that was set, again and again."""
    assert rungs(ladder(2.0)) == [0.3, 0.6, 2.0, 2.0, 2.0]
    assert rungs(ladder(30.0)) == [0.3, 0.6, 30.0, 30.0, 30.0]


@pytest.mark.parametrize("limit", [0.1, 0.5, 1.0, 1.4])
def test_the_last_rung_outlasts_the_deadlock_check(limit: float) -> None:
    """Autovacuum yields only then, so that a shorter limit would never get past it."""
    assert rungs(ladder(limit)) == [0.3, 0.6, 1.5, 1.5, 1.5]


def test_the_last_rung_follows_the_server() -> None:
    """Where the server looks for deadlocks later, the migration waits longer; where earlier, as long as it was told."""
    assert LockTimeouts.for_server(Limits(2.0), 5.0).last_seconds == 5.5
    assert LockTimeouts.for_server(Limits(2.0), 0.01).last_seconds == 2.0


def test_no_rung_is_longer_than_the_last() -> None:
    """On a server with a very quick deadlock check a short limit leaves out the rungs above it."""
    assert rungs(LockTimeouts.for_server(Limits(0.4), 0.01)) == pytest.approx([0.3, 0.51, 0.51, 0.51, 0.51])


def test_no_limit_is_no_ladder() -> None:
    """MIGRATION_LOCK_TIMEOUT_SECONDS=0: 0 is PostgreSQL's word for none as well."""
    assert rungs(ladder(0)) == [0.0] * 5


def test_pauses_grow_and_are_bounded() -> None:
    """The first is within half a second, none is longer than thirty, and they differ from instance to instance."""
    pauses = [[ladder().delay(attempt) for _ in range(50)] for attempt in ATTEMPTS]
    assert all(0.05 <= pause <= 30 for each in pauses for pause in each)
    assert max(pauses[0]) <= 0.5
    assert max(pauses[-1]) > 5
    assert len(set(pauses[-1])) > 40


@pytest.mark.parametrize("limit", [0.0, 2.0])
@pytest.mark.parametrize(("idle", "bound"), [(10, 5), (60, 30), (3600, 30), (0, 30)])
def test_no_pause_outlasts_the_lease(limit: float, idle: float, bound: float) -> None:
    """The server ends a session that is idle for too long, and with it the lock: half of that is the most."""
    climbed = ladder(limit, idle)
    assert climbed.longest_delay_seconds == bound
    assert max(climbed.delay(attempt) for attempt in ATTEMPTS for _ in range(50)) <= bound


def test_each_revision_climbs_by_itself() -> None:
    """One that did not get its lock asks longer the next time; another one starts at the first rung."""
    pace = LockRetrySchedule(lambda revision: Limits(lock_timeout_seconds=2))
    assert [pace.contended("slow")[0] for _ in range(2)] == [1, 2]
    assert (pace.settings("slow")["lock_timeout"], pace.settings("other")["lock_timeout"]) == ("2000ms", "300ms")


def test_a_revision_may_have_limits_of_its_own() -> None:
    """Its last rung and its statements' limit are what it declares; the first rungs are everybody's."""
    own = {"patient": Limits(lock_timeout_seconds=30, statement_timeout_seconds=600)}
    pace = LockRetrySchedule(lambda revision: own.get(revision, Limits()))
    assert pace.settings("patient") == {"lock_timeout": "300ms", "statement_timeout": "600000ms"}
    for _ in range(2):
        pace.contended("patient")
    assert pace.settings("patient")["lock_timeout"] == "30000ms"
    assert pace.settings("other")["statement_timeout"] == "0ms"


def test_the_limits_are_those_of_the_next_attempt() -> None:
    """For databases that take numbers: the rung that the revision has climbed to, and the rest as it was set."""
    pace = LockRetrySchedule(lambda revision: Limits(2, 30, 40))
    assert pace.limits("slow") == Limits(0.3, 30, 40)
    pace.contended("slow")
    assert pace.limits("slow") == Limits(0.6, 30, 40)
    pace.contended("slow")
    assert pace.limits("slow") == Limits(2, 30, 40)
    assert pace.limits("other") == Limits(0.3, 30, 40)
