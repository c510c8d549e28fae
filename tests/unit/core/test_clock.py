"""Deadlines, backoff and jitter are values that are fed the time."""

import pytest

from api.migrations.core.clock import Backoff, Deadline, SystemClock, jittered

DRAWS = 500


def test_a_deadline_counts_down_and_never_below_zero() -> None:
    """What is left is what may still be waited."""
    deadline = Deadline.after(30, now=100)
    assert (deadline.at, deadline.budget_seconds) == (130, 30)
    assert [deadline.remaining(now) for now in (100, 110, 130, 999)] == [30, 20, 0, 0]


def test_a_deadline_has_passed_from_its_moment_on() -> None:
    """Exactly at the end the budget is used up."""
    deadline = Deadline.after(30, now=100)
    assert [deadline.passed(now) for now in (100, 129.9, 130, 131)] == [False, False, True, True]


def test_jitter_spreads_by_half_to_both_sides() -> None:
    """Instances that start together must not poll together."""
    drawn = [jittered(2.0) for _ in range(DRAWS)]
    assert all(1.0 <= seconds <= 3.0 for seconds in drawn)
    assert len(set(drawn)) > DRAWS // 2


@pytest.mark.parametrize(("failures", "longest"), [(1, 0.4), (2, 0.8), (3, 1.6), (4, 3.0), (5, 3.0), (10_000, 3.0)])
def test_backoff_grows_to_its_cap(failures: int, longest: float) -> None:
    """And neither to nothing nor to an overflow after a night without a database."""
    drawn = [Backoff().delay(failures) for _ in range(DRAWS)]
    assert all(0.1 <= seconds <= longest for seconds in drawn)
    assert max(drawn) > longest / 2


async def test_the_clock_of_this_machine_goes_forward() -> None:
    """Also over a sleep, which returns."""
    clock = SystemClock()
    before = clock.monotonic()
    await clock.sleep(0)
    assert clock.monotonic() >= before
