"""All processes of a test run scale their limits by one factor, and no wait ends too early."""

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
    """Return `scaled(2)` in another process, and the factor that it would pass to its own processes."""
    command, environment = [sys.executable, "-c", ASK], {**os.environ, VARIABLE: told}
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=True)
    limit, factor = map(float, done.stdout.split())
    return limit, factor


def test_a_process_uses_the_factor_that_it_was_passed() -> None:
    """A process uses the factor that it was passed without measuring, and passes the same one on."""
    assert asked("2.5") == (5.0, 2.5)


def test_the_first_process_measures_the_factor_and_passes_it_on() -> None:
    """The first process measures a factor between 1 and the maximum, and passes it on."""
    limit, factor = asked("")
    assert 1 <= factor <= LARGEST
    assert limit == pytest.approx(2 * factor)


def test_a_wait_ends_with_its_condition() -> None:
    """A wait checks its condition repeatedly and returns when it holds."""
    looks = count()
    waiting.wait_until(lambda: next(looks) == 3, "the fourth look")
    assert next(looks) == 4


def test_a_failed_wait_names_its_condition_and_lasts_long_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed wait names its condition, and a caller can only lengthen its limit."""
    monkeypatch.setattr(waiting, "FOREVER_SECONDS", 0.2)
    for seconds, expected in ((0.01, 0.2), (0.4, 0.4)):
        began = time.monotonic()
        with pytest.raises(AssertionError, match=f"pigs that fly: not within {expected:g} s"):
            waiting.wait_until(lambda: False, "pigs that fly", seconds=seconds)
        assert time.monotonic() - began >= expected


def test_the_pause_after_a_slow_check_is_as_long_as_the_check() -> None:
    """The pause after a check is as long as the check, so that checks use at most half of the time."""
    limit = waiting.Limit("anything", 0)
    limit._looked -= 0.3
    assert 0.3 <= limit.pause() <= waiting.LONGEST_STEP_SECONDS


def test_a_long_wait_checks_less_often() -> None:
    """After a second of waiting the pause is at least a tenth of a second, and later at least a fifth."""
    limit = waiting.Limit("anything", 0)
    for waited, expected in ((1, 0.1), (30, waiting.STEADY_STEP_SECONDS)):
        limit._looked = time.monotonic()
        limit._began = limit._looked - waited
        assert expected <= limit.pause() <= waiting.LONGEST_STEP_SECONDS
