"""`./dev up` starts, migrates and stops real processes; it runs on a copy of the project, with a .data of its own."""

import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.error import HTTPError

import psutil
import pytest

from devtools.ports import listeners_from
from tests.conftest import PROJECT
from tests.support.pace import scaled
from tests.support.project import head

pytestmark = [pytest.mark.acceptance, pytest.mark.usefixtures("ports_from_8000")]

PARTS = ("api", "alembic", "alembic.ini", "devtools", "migrate.sh")
BUDGET_SECONDS = scaled(90)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy what ./dev up needs, without the .data folder; the tests share the one that the first of them creates."""
    folder = tmp_path_factory.mktemp("project")
    for name in PARTS:
        source = PROJECT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, folder / name)
    return folder


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
    """Run ./dev up --check to its end; return exit code and output."""
    process = command(project, "--check", *arguments, **environment)
    output, _ = process.communicate(timeout=BUDGET_SECONDS)
    return process.returncode, output


def processes_in(project: Path) -> list[psutil.Process]:
    """Return the processes whose working folder is in `project`: the instances and the database server."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if Path(process.cwd()).is_relative_to(project):
                found.append(process)
    return found


@contextmanager
def serving(project: Path, *arguments: str) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """Start ./dev up, yield it and its output once it serves, and stop it at the end."""
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
    """`./dev up` keeps its data: the first start migrates once, the second finds head, and --fresh starts over."""
    shutil.rmtree(project / ".data", ignore_errors=True)
    code, first = check(project)
    assert code == 0, first
    assert first.count(" migrated the database") == 1
    assert first.count(" waited and saw it finish") == 1
    code, second = check(project, "--scale", "2")
    assert code == 0, second
    assert "already at head" in second
    code, third = check(project, "--scale", "1", "--fresh")
    assert code == 0, third
    assert "api-1 (" in third
    assert " migrated the database." in third
    assert processes_in(project) == []


@pytest.mark.parametrize(("number", "scale"), [(signal.SIGINT, "2"), (signal.SIGTERM, "1")])
def test_a_signal_stops_dev_up_and_leaves_no_process(project: Path, number: signal.Signals, scale: str) -> None:
    """`./dev up` serves until SIGINT or SIGTERM; then it exits with 0, and no instance or server is left."""
    with serving(project, "--scale", scale) as (process, output):
        addresses = [word for word in output.split() if word.endswith("/docs")]
        assert addresses, output
        with urllib.request.urlopen(addresses[0], timeout=BUDGET_SECONDS) as answer:
            assert answer.status == 200
        process.send_signal(number)
        process.communicate(timeout=BUDGET_SECONDS)
        assert process.returncode == 0
    assert processes_in(project) == []


def in_another_terminal(project: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    """Run a command in `project` without a URL."""
    without = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
    own = {**without, "VIRTUAL_ENV": sys.prefix}
    return subprocess.run(words, cwd=project, env=own, capture_output=True, text=True, timeout=BUDGET_SECONDS)


def test_commands_in_another_terminal_find_the_database_of_dev_up(project: Path) -> None:
    """While `./dev up` runs, `./migrate.sh` and `alembic` use its database and say so; afterwards no URL is set.

    A second `./dev up` in the same folder exits with 2 and one line, and the first one keeps running.
    """
    commands = (["sh", "migrate.sh", "current"], [sys.executable, "-m", "alembic", "current"])
    with serving(project, "--scale", "1") as (first, _):
        for command in commands:
            done = in_another_terminal(project, *command)
            assert done.returncode == 0, done.stderr
            assert head() in done.stdout
            assert done.stderr.count("DATABASE_URL is not set: using the database of ./dev up\n") == 1
        second = check(project)
        assert second == (2, "dev up: another ./dev up runs in this folder. To fix: stop it\n")
        assert first.poll() is None
    for command in commands:
        assert "DATABASE_URL is not set. To fix" in in_another_terminal(project, *command).stderr


def test_a_killed_dev_up_does_not_block_the_next(project: Path) -> None:
    """SIGKILL leaves the database server of `./dev up` behind; the next start ends it and finds the data at head."""
    with serving(project, "--scale", "1") as (first, _):
        first.kill()
        first.wait(BUDGET_SECONDS)
        instances = [process for process in processes_in(project) if "uvicorn" in process.cmdline()]
        assert len(instances) == 1
        for instance in instances:
            instance.kill()
        code, output = check(project, "--scale", "1")
        assert code == 0, output
        assert "already at head" in output
    assert processes_in(project) == []


@pytest.fixture
def broken(project: Path) -> Iterator[tuple[str, int]]:
    """Break the last revision of `project`, yield its file name and the line to correct, and mend it at the end."""
    [last] = (project / "alembic" / "versions").glob(f"*{head()}*.py")
    text, begin = last.read_text(), "def upgrade() -> None:\n"
    last.write_text(text.replace(begin, begin + "    op.execute('ALTER TABLE nowhere ADD x int')\n"))
    yield last.name, text[: text.index(begin)].count("\n") + 2
    last.write_text(text)


def test_a_broken_revision_is_told_once_and_the_page_stays_up(project: Path, broken: tuple[str, int]) -> None:
    """A failed revision: each instance shows it, the error is told once with the line to correct, and the API stays up.

    Another process has the usual port, which the summary names with the ports that are used instead.
    """
    name, line = broken
    with next(listeners_from(8000)) as taken, serving(project, "--scale", "2", "--fresh") as (_, output):
        assert output.count(f"  failed: revision {head()}") == 2
        assert output.count("nowhere") == 1
        assert f"\nTo fix: correct line {line} of {name}" in output
        assert f"In use: {taken.getsockname()[1]} by " in output
        assert "ran the migrations instead of one" not in output
        page = next(word for word in output.split() if word.endswith("/health/migrations"))
        with pytest.raises(HTTPError) as answer:
            urllib.request.urlopen(page, timeout=BUDGET_SECONDS)
        assert b'"phase":"failed"' in answer.value.read()


def test_an_unreachable_database_is_named(project: Path) -> None:
    """No database answers: `./dev up --check` exits with 1 and shows the error once, without the password."""
    url = "postgresql://someone:secret-word@127.0.0.1:1/nowhere"
    budgets = dict.fromkeys(("MIGRATION_WAIT_SECONDS", "MIGRATION_RUN_SECONDS"), f"{scaled(2):g}")
    code, output = check(project, "--scale", "2", DATABASE_URL=url, **budgets)
    assert code == 1
    assert "No instance became ready." in output
    assert output.count("Connection refused") == 1
    assert "the same error on api-" in output
    assert "secret-word" not in output
