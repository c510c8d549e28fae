"""The table of moves is walked: what it allows works, and what it does not allow changes nothing."""

from dataclasses import FrozenInstanceError

import pytest

from api.migrations.core.schema import Schema, SchemaState
from api.migrations.core.status import MOVES, Holder, IllegalMove, LockStatus, Phase, Tracker

PAIRS = [(before, after) for before in Phase for after in Phase]
LEGAL = [(before, after) for before, after in PAIRS if after in MOVES[before]]
ILLEGAL = [(before, after) for before, after in PAIRS if after not in MOVES[before]]
LAST = [phase for phase in Phase if not MOVES[phase]]


def test_every_phase_is_in_the_table() -> None:
    """A phase without a row would fail with a KeyError in production."""
    assert set(MOVES) == set(Phase)


@pytest.mark.parametrize(("before", "after"), LEGAL)
def test_a_legal_move_enters_the_phase_with_its_facts(before: Phase, after: Phase) -> None:
    """Phase and facts change together, so that no reader sees one without the other."""
    tracker = Tracker(phase=before, since=0.0)
    tracker.move(after, message="why")
    assert (tracker.status.phase, tracker.status.message) == (after, "why")
    assert tracker.status.since > 0


@pytest.mark.parametrize(("before", "after"), ILLEGAL)
def test_an_illegal_move_changes_nothing(before: Phase, after: Phase) -> None:
    """The status is the very same object as before."""
    tracker = Tracker(phase=before, message="before")
    status = tracker.status
    with pytest.raises(IllegalMove, match=f"{before} -> {after}"):
        tracker.move(after, message="after")
    assert tracker.status is status


def test_only_three_phases_are_last() -> None:
    """From every other one there is a way on."""
    assert LAST == [Phase.READY, Phase.FAILED, Phase.OFF]


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase not in LAST])
def test_every_unfinished_phase_may_fail(phase: Phase) -> None:
    """Whatever it was doing, an instance can say that it gave up."""
    assert Phase.FAILED in MOVES[phase]


def test_readiness_latches() -> None:
    """A newer schema seen later does not take a ready instance out of service."""
    tracker = Tracker(phase=Phase.READY)
    tracker.note(schema=Schema(SchemaState.DIVERGED), reachable=False)
    assert tracker.status.ready
    with pytest.raises(IllegalMove):
        tracker.move(Phase.WAITING)


@pytest.mark.parametrize("phase", list(Phase))
def test_ready_is_ready_or_off(phase: Phase) -> None:
    """Nothing else may serve."""
    assert Tracker(phase=phase).status.ready is (phase in {Phase.READY, Phase.OFF})


def test_a_note_keeps_phase_and_time() -> None:
    """Progress within a phase does not look like a move."""
    tracker = Tracker(phase=Phase.MIGRATING, since=5.0)
    tracker.note(message="half way")
    assert (tracker.status.phase, tracker.status.since, tracker.status.message) == (Phase.MIGRATING, 5.0, "half way")


def test_a_snapshot_never_changes() -> None:
    """A probe in another thread reads it without a lock."""
    tracker = Tracker()
    snapshot = tracker.status
    tracker.move(Phase.CHECKING)
    assert snapshot.phase is Phase.STARTING
    with pytest.raises(FrozenInstanceError):
        snapshot.phase = Phase.READY  # type: ignore[misc]


def test_who_is_only_elected_does_not_hold_the_lock() -> None:
    """It has no session yet, so it has no number."""
    assert str(LockStatus(Holder("web-1"))) == "web-1 leads"
    assert str(LockStatus(Holder("web-1", 7))) == "web-1 (pid 7) holds the lock"
