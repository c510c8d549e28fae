"""./dev up as a person runs it: real processes, on a copy of the project, so that nobody's own .data is touched."""

import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from tests.conftest import PROJECT
from tests.support.pace import scaled

pytestmark = [pytest.mark.acceptance, pytest.mark.usefixtures("ports_from_8000")]

PARTS = ("api", "alembic", "alembic.ini", "devtools")
BUDGET_SECONDS = scaled(90)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """What ./dev up needs of the project, without anybody's data."""
    for name in PARTS:
        source = PROJECT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    return tmp_path


def command(project: Path, *arguments: str, **environment: str) -> "subprocess.Popen[str]":
    """Start ./dev up in `project` with the Python of this run."""
    inherited = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
    return subprocess.Popen(
        [sys.executable, "-m", "devtools.up", *arguments],
        cwd=project,
        env={**inherited, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def check(project: Path, *arguments: str, **environment: str) -> tuple[int, str]:
    """Run ./dev up --check to its end: exit code and output."""
    process = command(project, "--check", *arguments, **environment)
    output, _ = process.communicate(timeout=BUDGET_SECONDS)
    return process.returncode, output


def processes_in(project: Path) -> list[psutil.Process]:
    """The processes that work in `project`: the instances, and the server on its data."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if Path(process.cwd()).is_relative_to(project):
                found.append(process)
    return found


@contextmanager
def serving(project: Path, *arguments: str) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """Start ./dev up, yield it and its output once it says that it serves, and make sure that it ends."""
    process = command(project, *arguments)
    try:
        yield process, _until(process, "Ctrl-C stops all of them")
    finally:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=BUDGET_SECONDS)


def _until(process: "subprocess.Popen[str]", words: str) -> str:
    assert process.stdout
    seen = []
    for line in process.stdout:
        seen.append(line)
        if words in line:
            return "".join(seen)
    raise AssertionError(f"it ended before it said {words!r}: {''.join(seen)}")


def test_one_of_three_migrates_and_the_next_start_finds_head(project: Path) -> None:
    """The data stay: a fresh database is migrated by one, the second start has nothing to do, --fresh starts over."""
    code, first = check(project)
    assert code == 0, first
    assert first.count(" migrated the database") == 1
    assert first.count(" waited and saw it finish") == 1
    code, second = check(project, "--scale", "2")
    assert code == 0, second
    assert "at head already" in second
    code, third = check(project, "--scale", "1", "--fresh")
    assert code == 0, third
    assert "api-1 (" in third
    assert " migrated the database." in third
    assert processes_in(project) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_everything_cleanly(project: Path, number: signal.Signals) -> None:
    """It serves until it is asked to stop; then nothing is left, and that is a success."""
    with serving(project, "--scale", "2") as (process, output):
        addresses = [word for word in output.split() if word.endswith("/docs")]
        assert addresses, output
        with urllib.request.urlopen(addresses[0], timeout=BUDGET_SECONDS) as answer:
            assert answer.status == 200
        process.send_signal(number)
        process.communicate(timeout=BUDGET_SECONDS)
        assert process.returncode == 0
    assert processes_in(project) == []


def test_a_second_one_in_the_same_folder_is_refused(project: Path) -> None:
    """One line, exit 2, and the first goes on."""
    with serving(project, "--scale", "1") as (first, _):
        code, output = check(project)
        assert (code, output) == (2, "dev up: another ./dev up runs in this folder; stop it first\n")
        assert first.poll() is None


def test_a_killed_one_does_not_stop_the_next(project: Path) -> None:
    """SIGKILL leaves its server behind; the next start ends that one and finds the data as they were."""
    with serving(project, "--scale", "1") as (first, _):
        first.kill()
        first.wait(BUDGET_SECONDS)
        instances = [process for process in processes_in(project) if "uvicorn" in process.cmdline()]
        assert len(instances) == 1
        for instance in instances:
            instance.kill()
        code, output = check(project, "--scale", "1")
        assert code == 0, output
        assert "at head already" in output
    assert processes_in(project) == []


def test_an_unreachable_database_is_named(project: Path) -> None:
    """Every instance gives up in the end; the command shows its last words, which name the cause and no password."""
    url = "postgresql://someone:secret-word@127.0.0.1:1/nowhere"
    budgets = dict.fromkeys(("MIGRATION_WAIT_SECONDS", "MIGRATION_RUN_SECONDS"), f"{scaled(2):g}")
    code, output = check(project, "--scale", "2", DATABASE_URL=url, **budgets)
    assert code == 1
    assert "No instance became ready." in output
    assert output.count("Connection refused") >= 2
    assert "secret-word" not in output
