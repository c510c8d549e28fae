"""The status moves between phases only as its table allows; any other move changes nothing."""

import sys
import threading
import time
from dataclasses import FrozenInstanceError, replace

import pytest

from api.migrations.core.schema import Schema, SchemaState
from api.migrations.core.status import (
    MOVES,
    SETTLED,
    Blocker,
    Holder,
    IllegalMove,
    Limit,
    LockStatus,
    Phase,
    Progress,
    Tracker,
)

PAIRS = [(before, after) for before in Phase for after in Phase]
LEGAL = [(before, after) for before, after in PAIRS if after in MOVES[before]]
ILLEGAL = [(before, after) for before, after in PAIRS if after not in MOVES[before]]


def test_every_phase_is_in_the_table() -> None:
    """Every phase has a row in the table of moves."""
    assert set(MOVES) == set(Phase)


@pytest.mark.parametrize(("before", "after"), LEGAL)
def test_a_legal_move_enters_the_phase_with_its_facts(before: Phase, after: Phase) -> None:
    """A legal move changes phase and facts at once, so that no reader sees one without the other."""
    tracker = Tracker(phase=before, since=0.0)
    tracker.move(after, message="why")
    assert (tracker.status.phase, tracker.status.message) == (after, "why")
    assert tracker.status.since > 0


@pytest.mark.parametrize(("before", "after"), ILLEGAL)
def test_an_illegal_move_changes_nothing(before: Phase, after: Phase) -> None:
    """An illegal move raises an error, and the status stays the same object."""
    tracker = Tracker(phase=before, message="before")
    status = tracker.status
    with pytest.raises(IllegalMove, match=f"{before} -> {after}"):
        tracker.move(after, message="after")
    assert tracker.status is status


def test_a_settled_instance_neither_waits_nor_migrates_again() -> None:
    """An instance whose start has ended can only become ready after a failure, and can drain when it is ready."""
    moves = {phase: set(MOVES[phase]) for phase in SETTLED}
    assert moves == {
        Phase.FAILED: {Phase.READY},
        Phase.READY: {Phase.DRAINING},
        Phase.OFF: {Phase.DRAINING},
        Phase.DRAINING: set(),
    }


@pytest.mark.parametrize("phase", sorted(set(Phase) - SETTLED))
def test_every_unfinished_phase_may_fail(phase: Phase) -> None:
    """An instance can move from every unfinished phase to `failed`."""
    assert Phase.FAILED in MOVES[phase]


def test_a_ready_instance_stays_ready() -> None:
    """A ready instance that sees a newer schema later stays ready."""
    tracker = Tracker(phase=Phase.READY)
    tracker.note(schema=Schema(SchemaState.DIVERGED), reachable=False)
    assert tracker.status.ready
    with pytest.raises(IllegalMove):
        tracker.move(Phase.WAITING)


@pytest.mark.parametrize("phase", list(Phase))
def test_only_the_phases_ready_and_off_are_ready(phase: Phase) -> None:
    """An instance counts as ready in the phases `ready` and `off`, and in no other."""
    assert Tracker(phase=phase).status.ready is (phase in {Phase.READY, Phase.OFF})


def test_a_note_keeps_phase_and_time() -> None:
    """A note within a phase changes neither the phase nor the time at which it began."""
    tracker = Tracker(phase=Phase.MIGRATING, since=5.0)
    tracker.note(message="half way")
    assert (tracker.status.phase, tracker.status.since, tracker.status.message) == (Phase.MIGRATING, 5.0, "half way")


def test_a_failure_leaves_nothing_in_the_present_tense() -> None:
    """After a failure the lock status is kept as that of before, and no statement, next attempt or limit is current."""
    seen = LockStatus(Holder("web-1", 7), blocked_by=(Blocker(77),))
    tracker = Tracker(phase=Phase.MIGRATING, limit=Limit(1.0, "MIGRATION_RUN_SECONDS"))
    tracker.note(lock_status=seen, progress=Progress(1, 2, "b", 1.0, 3, 5.0))
    tracker.move(Phase.FAILED, message="boom")
    status = tracker.status
    assert (status.lock_status, status.at_failure, status.limit) == (LockStatus(), seen, None)
    assert (status.progress, status.blocked_since) == (Progress(1, 2, None, 1.0), None)
    tracker.note(held=True)
    tracker.move(Phase.READY)
    assert not tracker.status.held


def test_the_time_of_a_blockage_begins_once() -> None:
    """The time since when a revision is blocked outlasts its attempts, and ends with the last blocking session."""
    tracker = Tracker(phase=Phase.MIGRATING)
    tracker.note(lock_status=LockStatus(blocked_by=(Blocker(77),)))
    since = tracker.status.blocked_since
    assert since is not None
    tracker.note(lock_status=LockStatus(), progress=Progress(attempt=1))
    tracker.note(lock_status=LockStatus(blocked_by=(Blocker(78),)))
    assert tracker.status.blocked_since == since
    tracker.note(lock_status=LockStatus(), progress=Progress())
    assert tracker.status.blocked_since is None


def test_a_revision_that_runs_after_a_contended_attempt_is_not_blocked() -> None:
    """After a pause the next attempt runs for long: it is not blocked, and a later blockage has a time of its own."""
    progress = Progress(attempt=1, next_try_at=time.time() + 5)
    tracker = Tracker(phase=Phase.MIGRATING)
    tracker.note(lock_status=LockStatus(), progress=progress)
    since = tracker.status.blocked_since
    assert since is not None
    assert [tracker.status.blocked_seconds(since + after) for after in (10, 34, 36)] == [10, 34, 0]
    long_ago = replace(tracker.status, blocked_since=since - 100, blocked_at=since - 90)
    tracker.status = replace(long_ago, progress=replace(progress, next_try_at=None))
    tracker.note(lock_status=LockStatus())
    assert tracker.status.blocked_since is None
    tracker.status = long_ago
    tracker.note(lock_status=LockStatus(blocked_by=(Blocker(77),)))
    assert (tracker.status.blocked_since or 0.0) >= since


def test_an_outage_begins_once_and_ends_with_an_answer() -> None:
    """The time since when the database is unreachable is that of the first error, until the database answers."""
    tracker = Tracker()
    tracker.note(reachable=False)
    since = tracker.status.unreachable_since
    tracker.note(reachable=False)
    assert since is not None
    assert tracker.status.unreachable_since == since
    tracker.note(reachable=True)
    assert tracker.status.unreachable_since is None


def test_a_snapshot_never_changes() -> None:
    """A snapshot of the status does not change with the tracker, so that another thread reads it without a lock."""
    tracker = Tracker()
    snapshot = tracker.status
    tracker.move(Phase.CHECKING)
    assert snapshot.phase is Phase.STARTING
    with pytest.raises(FrozenInstanceError):
        snapshot.phase = Phase.READY  # type: ignore[misc]


def test_an_elected_instance_without_a_session_does_not_hold_the_lock() -> None:
    """An elected instance that has no session in the database is not shown as the lock holder."""
    assert str(LockStatus(Holder("web-1"))) == "web-1 leads"
    assert str(LockStatus(Holder("web-1", 7))) == "web-1 (pid 7) holds the lock"


def test_two_threads_lose_no_note() -> None:
    """Two threads note different facts at once: no fact is lost, as when env.py runs in a thread of its own."""
    tracker, rounds = Tracker(), 3000
    lost: list[str] = []

    def note(name: str) -> None:
        for number in range(rounds):
            tracker.note(**{name: number})
            if getattr(tracker.status, name) != number:
                lost.append(name)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=note, args=[name]) for name in ("last_success", "last_failure")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert lost == []
