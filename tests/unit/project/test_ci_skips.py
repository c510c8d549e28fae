"""A skipped test fails the run if CI=true, because everything it needs should be installed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import conftest
from tests.conftest import PROJECT

SUITE = """
import pytest
from tests.support.servers import optional

def test_passes(): pass

def test_is_skipped(): optional("a thing", "apt-get install thing")

@pytest.mark.xfail(strict=True)
def test_fails_as_expected(): assert False
"""


def test_a_skip_fails_in_ci(tmp_path: Path) -> None:
    """A skip fails in CI with what is missing and how to install it, and an expected failure stays one."""
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    suite = tmp_path / "test_suite.py"
    suite.write_text(SUITE)
    options = ["-p", "tests.conftest", "-c", str(tmp_path / "pytest.ini"), "-p", "no:cacheprovider", "-q"]
    command = [sys.executable, "-m", "pytest", *options, str(suite)]
    done = subprocess.run(command, cwd=PROJECT, env={**os.environ, "CI": "true"}, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1].startswith("1 failed, 1 passed, 1 xfailed")
    assert "skipped although CI=true: " in done.stdout
    assert "needs a thing: apt-get install thing" in done.stdout


@pytest.mark.parametrize(("in_ci", "outcome"), [(True, "failed"), (False, "skipped")])
def test_a_skip_is_only_reported_elsewhere(monkeypatch: pytest.MonkeyPatch, in_ci: bool, outcome: str) -> None:
    """The report of a skip becomes a failure in CI; on a developer's machine it stays a skip, and the run succeeds."""
    monkeypatch.setattr(conftest, "IN_CI", in_ci)
    report = pytest.TestReport("test_a", ("test_a.py", 1, "test_a"), {}, "skipped", "needs a thing", "call")
    hook = conftest.pytest_runtest_makereport()
    next(hook)
    with pytest.raises(StopIteration) as ended:
        hook.send(report)
    assert ended.value.value.outcome == outcome
