"""Deadlines, backoff and jitter compute with the times that they are given."""

import pytest

from api.migrations.core.clock import Backoff, Deadline, SystemClock, jittered

DRAWS = 500


def test_a_deadline_counts_down_to_zero() -> None:
    """A deadline of 30 s has 30, 20 and 0 s left as time passes, and never less than 0."""
    deadline = Deadline.after(30, now=100)
    assert (deadline.at, deadline.budget_seconds) == (130, 30)
    assert [deadline.remaining(now) for now in (100, 110, 130, 999)] == [30, 20, 0, 0]


def test_a_deadline_has_passed_once_its_time_is_reached() -> None:
    """A deadline has passed exactly at its time and after it, but not before."""
    deadline = Deadline.after(30, now=100)
    assert [deadline.passed(now) for now in (100, 129.9, 130, 131)] == [False, False, True, True]


def test_jitter_varies_a_delay_by_half() -> None:
    """Jitter returns different values between 50 and 150 % of a delay, so that instances do not poll together."""
    drawn = [jittered(2.0) for _ in range(DRAWS)]
    assert all(1.0 <= seconds <= 3.0 for seconds in drawn)
    assert len(set(drawn)) > DRAWS // 2


@pytest.mark.parametrize(("failures", "longest"), [(1, 0.4), (2, 0.8), (3, 1.6), (4, 3.0), (5, 3.0), (10_000, 3.0)])
def test_backoff_doubles_up_to_its_cap(failures: int, longest: float) -> None:
    """The backoff doubles with each failure up to 3 s, and neither vanishes nor overflows after 10,000 failures."""
    drawn = [Backoff().delay(failures) for _ in range(DRAWS)]
    assert all(0.1 <= seconds <= longest for seconds in drawn)
    assert max(drawn) > longest / 2


async def test_the_system_clock_never_goes_back() -> None:
    """The system clock is not earlier after a sleep than before it."""
    clock = SystemClock()
    before = clock.monotonic()
    await clock.sleep(0)
    assert clock.monotonic() >= before
