"""A skipped test fails the run if CI=true, because everything it needs should be installed."""

import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import PROJECT

SUITE = """
import pytest
from tests.support.servers import optional

def test_passes(): pass

def test_is_skipped(): optional("a thing", "apt-get install thing")

@pytest.mark.xfail(strict=True)
def test_fails_as_expected(): assert False
"""


def closing_line(folder: Path, ci: str) -> tuple[int, str, str]:
    """Run SUITE under the project's conftest with CI set to `ci`; return exit code, closing line and output."""
    (folder / "pytest.ini").write_text("[pytest]\n")
    suite = folder / "test_suite.py"
    suite.write_text(SUITE)
    options = ["-p", "tests.conftest", "-c", str(folder / "pytest.ini"), "-p", "no:cacheprovider", "-q"]
    command = [sys.executable, "-m", "pytest", *options, str(suite)]
    done = subprocess.run(command, cwd=PROJECT, env={**os.environ, "CI": ci}, capture_output=True, text=True)
    return done.returncode, done.stdout.splitlines()[-1], done.stdout


def test_a_skip_fails_in_ci(tmp_path: Path) -> None:
    """A skip fails in CI with what is missing and how to install it, and an expected failure stays one."""
    code, last, output = closing_line(tmp_path, "true")
    assert code == 1
    assert last.startswith("1 failed, 1 passed, 1 xfailed")
    assert "skipped although CI=true: " in output
    assert "needs a thing: apt-get install thing" in output


def test_a_skip_is_only_reported_elsewhere(tmp_path: Path) -> None:
    """A skip on a developer's machine, where CI is not `true`, is reported and does not fail the run."""
    code, last, _ = closing_line(tmp_path, "false")
    assert code == 0
    assert last.startswith("1 passed, 1 skipped, 1 xfailed")
