"""The record of a Lease decides which candidate may acquire it and what that candidate writes."""

from datetime import UTC, datetime, timedelta

import pytest

from api.migrations.electors.kubernetes import lease as lease_record
from api.migrations.electors.kubernetes.lease import LeaseRecord, LeaseTimings, ObservedLease, Step, next_step

ME, OTHER, NOW = "me_1", "other_2", 500.0
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
HELD = LeaseRecord(OTHER, 15, NOON, NOON, 3)
RENEWED = LeaseRecord(OTHER, 15, NOON, NOON + timedelta(seconds=2), 3)
HOUR = timedelta(hours=1)


@pytest.mark.parametrize(
    ("record", "observed", "step"),
    [
        (None, ObservedLease(), Step.CREATE),
        (None, ObservedLease(HELD, NOW - 1), Step.CREATE),
        # read for the first time: its times do not matter
        (HELD, ObservedLease(), Step.WAIT),
        (HELD, ObservedLease(RENEWED, NOW - 99), Step.WAIT),
        (LeaseRecord(OTHER, 15, NOON - HOUR, NOON - HOUR), ObservedLease(), Step.WAIT),
        (LeaseRecord(OTHER, 15, NOON + HOUR, NOON + HOUR), ObservedLease(), Step.WAIT),
        # unchanged for less than its duration, and for as long
        (HELD, ObservedLease(HELD, NOW - 14.9), Step.WAIT),
        (HELD, ObservedLease(HELD, NOW - 15), Step.TAKE),
        # changed since, in any of its fields
        (RENEWED, ObservedLease(HELD, NOW - 99), Step.WAIT),
        (LeaseRecord("third_3", 15, NOON, NOON, 3), ObservedLease(HELD, NOW - 99), Step.WAIT),
        (LeaseRecord(OTHER, 15, NOON, NOON, 4), ObservedLease(HELD, NOW - 99), Step.WAIT),
        # the duration is that of the record, not of this instance
        (LeaseRecord(OTHER, 60), ObservedLease(LeaseRecord(OTHER, 60), NOW - 59), Step.WAIT),
        (LeaseRecord(OTHER, 1), ObservedLease(LeaseRecord(OTHER, 1), NOW - 1), Step.TAKE),
        # without a holder
        (LeaseRecord("", 1), ObservedLease(), Step.TAKE),
        (LeaseRecord("", 15), ObservedLease(HELD, NOW - 1), Step.TAKE),
        # this instance holds it, although the answer was lost
        (LeaseRecord(ME, 15), ObservedLease(), Step.KEEP),
        # a restarted pod with the same name is another holder
        (LeaseRecord("me_0", 15), ObservedLease(), Step.WAIT),
    ],
)
def test_the_record_decides_whether_a_candidate_may_acquire_it(
    record: LeaseRecord | None, observed: ObservedLease, step: Step
) -> None:
    """A candidate may acquire, renew or must wait, by the record and by how long it observed it unchanged."""
    assert next_step(record, observed, NOW, ME)[0] is step


def test_an_observation_counts_from_the_last_change() -> None:
    """A candidate that reads an unchanged record again does not restart its observation time."""
    _, first = next_step(HELD, ObservedLease(), 100.0, ME)
    assert first == ObservedLease(HELD, 100.0)
    assert next_step(HELD, first, 110.0, ME)[1] == first
    assert next_step(RENEWED, first, 112.0, ME)[1] == ObservedLease(RENEWED, 112.0)
    assert next_step(None, first, 112.0, ME)[1].record is None


def test_each_write_changes_holder_start_and_transitions() -> None:
    """A renewal keeps holder and start, another holder adds a transition, and a release clears the holder."""
    kept, taken, released = HELD.kept(20), HELD.taken(ME, 20), HELD.released()
    assert (kept.holder, kept.lease_seconds, kept.acquired, kept.transitions) == (OTHER, 20, NOON, 3)
    assert kept.renewed != HELD.renewed
    assert (taken.holder, taken.lease_seconds, taken.transitions) == (ME, 20, 4)
    assert taken.acquired == taken.renewed != NOON
    assert (released.holder, released.lease_seconds, released.transitions) == ("", 1, 3)
    assert LeaseRecord.first(ME, 20).transitions == 0


def test_the_timings_have_the_proportions_of_client_go() -> None:
    """A lease of 15 s is renewed within 10 s every 2 s, and two more requests fit after the longest pause."""
    timings = LeaseTimings(15)
    assert (timings.renew_deadline_seconds, timings.retry_seconds) == (10, 2)
    assert all(2 <= timings.pause() <= 4.4 for _ in range(1000))
    assert 4.4 + 2 * timings.request_seconds < timings.renew_deadline_seconds
    assert LeaseTimings(3).request_seconds == 0.5


def test_times_are_written_with_a_fraction(monkeypatch: pytest.MonkeyPatch) -> None:
    """A time of a whole second is written with its fraction, because the API server rejects one without."""

    class AtNoon(datetime):
        """A clock that stands still at a whole second."""

        @classmethod
        def now(cls, tz: object = None) -> "AtNoon":
            """Return noon."""
            return cls(2026, 1, 1, 12, tzinfo=UTC)

    monkeypatch.setattr(lease_record, "datetime", AtNoon)
    assert lease_record.wall_clock().microsecond == 1
