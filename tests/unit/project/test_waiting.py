"""The limits of the tests themselves: one factor for all processes of a run, and no wait that ends too early."""

import os
import subprocess
import sys
import time
from itertools import count

import pytest

from tests.conftest import PROJECT
from tests.support import waiting
from tests.support.pace import LARGEST, VARIABLE

ASK = f"import os; from tests.support.pace import scaled; print(scaled(2), os.environ[{VARIABLE!r}])"


def asked(told: str) -> tuple[float, float]:
    """What `scaled(2)` is in another process, and the factor that it would tell those it starts."""
    command, environment = [sys.executable, "-c", ASK], {**os.environ, VARIABLE: told}
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=True)
    limit, factor = map(float, done.stdout.split())
    return limit, factor


def test_a_process_of_a_run_takes_the_factor_that_it_is_told() -> None:
    """It measures nothing, so that a test and the processes that it starts agree on every limit."""
    assert asked("2.5") == (5.0, 2.5)


def test_the_first_process_measures_the_factor_and_tells_it() -> None:
    """The factor is at least 1, because no limit may be shorter than on an idle machine, and it has an end."""
    limit, factor = asked("")
    assert 1 <= factor <= LARGEST
    assert limit == pytest.approx(2 * factor)


def test_a_wait_ends_with_its_condition() -> None:
    """The condition is asked again and again, and the wait returns when it holds."""
    looks = count()
    waiting.wait_until(lambda: next(looks) == 3, "the fourth look")
    assert next(looks) == 4


def test_a_wait_that_fails_says_for_what_and_lasts_long_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller may make the limit longer than the usual one, and not shorter."""
    monkeypatch.setattr(waiting, "FOREVER_SECONDS", 0.2)
    for seconds, expected in ((0.01, 0.2), (0.4, 0.4)):
        began = time.monotonic()
        with pytest.raises(AssertionError, match=f"pigs that fly: not within {expected:g} s"):
            waiting.wait_until(lambda: False, "pigs that fly", seconds=seconds)
        assert time.monotonic() - began >= expected


def test_a_slow_look_is_not_repeated_at_once() -> None:
    """The pause is as long as the look before it, so that looking never takes more than half of the time."""
    limit = waiting.Limit("anything", 0)
    limit._looked -= 0.3
    assert 0.3 <= limit.pause() <= waiting.LONGEST_STEP_SECONDS
