"""The status moves between phases only as its table allows; any other move changes nothing."""

from dataclasses import FrozenInstanceError

import pytest

from api.migrations.core.schema import Schema, SchemaState
from api.migrations.core.status import MOVES, Holder, IllegalMove, LockStatus, Phase, Tracker

PAIRS = [(before, after) for before in Phase for after in Phase]
LEGAL = [(before, after) for before, after in PAIRS if after in MOVES[before]]
ILLEGAL = [(before, after) for before, after in PAIRS if after not in MOVES[before]]
LAST = [phase for phase in Phase if not MOVES[phase]]


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


def test_only_three_phases_are_final() -> None:
    """Three phases have no further move, and every other phase has one."""
    assert LAST == [Phase.READY, Phase.FAILED, Phase.OFF]


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase not in LAST])
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
