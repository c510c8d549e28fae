"""Standard output has the result alone, whatever else is printed, and no broken stream stops a migration."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest

from tests.support.fakes import THREE_LINES, tree
from tests.support.fleet import alembic, environment, shell_code
from tests.support.places import SqlitePlace, versions
from tests.support.project import ROOT
from tests.support.waiting import FOREVER_SECONDS
from tests.support.warm import Process

pytestmark = pytest.mark.acceptance

LOUD_ENV = f'import warnings\n\nprint("env.py printed")\nwarnings.warn("env.py warned")\n{THREE_LINES}'
LOUD = """
import atexit, logging, sys, warnings
print("a revision ", end="")
print("printed")
print("a revision complained", file=sys.stderr)
warnings.warn("a revision warned")
theirs = logging.getLogger("theirs")
theirs.addHandler(logging.StreamHandler(sys.stdout))
theirs.warning("a revision logged")
atexit.register(print, "printed at the end of the process")
"""
BELOW = """
import os, subprocess
os.write(1, b"written to the descriptor\\n")
subprocess.run(["echo", "printed by a child"], check=True)
"""
PRINTED = [
    "env.py printed",
    "a revision printed",
    "a revision complained",
    "a revision logged",
    "printed at the end of the process",
]
WARNED = ["UserWarning: env.py warned", "UserWarning: a revision warned"]
CREATE = 'op.execute("CREATE TABLE t (a integer)")\n'
PRINTS = CREATE + 'import sys\nfor _ in range(9):\n    print("x" * 9999)\n    print("x", file=sys.stderr)'


def settings(place: SqlitePlace, ini: Path, **values: str) -> dict[str, str]:
    """Return the environment of a command on `place`."""
    return environment(place.url, **place.settings, MIGRATION_ALEMBIC_CONFIG=str(ini), VIRTUAL_ENV=sys.prefix, **values)


def run(
    *arguments: str, env: dict[str, str], out: int | IO[Any] = subprocess.PIPE, err: int | IO[Any] = subprocess.PIPE
) -> tuple[int, str, str]:
    """Run `./migrate.sh …`; return its exit code and, where they are not sent elsewhere, its two outputs."""
    words = [sys.executable, "-m", "api.migrations", *arguments]
    with Process(words, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=err, text=True) as process:
        stdout, stderr = process.communicate(timeout=FOREVER_SECONDS)
    return shell_code(process), stdout or "", stderr or ""


def in_a_shell(command: str, env: dict[str, str]) -> tuple[int, str, str]:
    """Run `./migrate.sh …` with the shell's redirections, and with Python's own buffers."""
    shell = ["sh", "-c", f'exec "$0" -m api.migrations {command}', sys.executable]
    env = {name: value for name, value in env.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(shell, cwd=ROOT, env=env, capture_output=True, text=True, timeout=FOREVER_SECONDS)
    return done.returncode, done.stdout, done.stderr


@contextmanager
def pipe_without_a_reader() -> Iterator[int]:
    """Yield the writing end of a pipe that has no reader."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        yield writing
    finally:
        os.close(writing)


def test_json_output_is_one_document_even_if_a_revision_prints(sqlite_place: SqlitePlace, tmp_path: Path) -> None:
    """env.py, a revision, its loggers and its child processes print: `upgrade --json` still prints one document."""
    env = settings(sqlite_place, tree(tmp_path, LOUD + BELOW, env=LOUD_ENV), MIGRATION_WIAT_SECONDS="geh3im")
    code, out, err = run("upgrade", "--json", env=env)
    assert code == 0, err
    assert out.count("\n") == 1
    assert json.loads(out)["revisions"] == ["r1"]
    expected = [*PRINTED, *WARNED, "written to the descriptor", "printed by a child"]
    assert [words for words in [*expected, "did you mean MIGRATION_WAIT_SECONDS?"] if words not in err] == []
    assert "geh3im" not in err


def test_each_line_of_a_json_log_is_an_object(sqlite_place: SqlitePlace, tmp_path: Path) -> None:
    """With JSON logs each print of env.py and a revision is logged as an object; standard output has the result."""
    env = settings(sqlite_place, tree(tmp_path, LOUD, env=LOUD_ENV), MIGRATION_LOG_FORMAT="json", MIGRATION_WAIT="1")
    code, out, err = run("upgrade", env=env)
    assert (code, out) == (0, "  r1, Do r1\nthe database is at head (r1)\n"), err
    lines = [json.loads(line) for line in err.splitlines()]
    # env.py runs more than once
    assert {line["message"] for line in lines if line.get("event") == "printed"} == set(PRINTED)
    warned = [line["message"] for line in lines if line["logger"] == "py.warnings"]
    assert [any(words in message for message in warned) for words in WARNED] == [True, True]
    assert [line["level"] for line in lines if line.get("event") == "unread_setting"] == ["warning"]


def test_a_manual_alembic_logs_warnings_as_json(sqlite_place: SqlitePlace, tmp_path: Path) -> None:
    """With JSON logs a manual `alembic upgrade` logs a revision's warning and an unread setting as one object each."""
    ini = tree(tmp_path, CREATE + 'import warnings\nwarnings.warn("a revision warned")')
    given = {**sqlite_place.settings, "MIGRATION_LOG_FORMAT": "json", "MIGRATION_WAIT": "1"}
    code, output = alembic("upgrade", "head", url=sqlite_place.url, ini=ini, **given)
    assert code == 0, output
    lines = [json.loads(line) for line in output.splitlines()]
    assert sum("UserWarning: a revision warned" in line["message"] for line in lines) == 1
    assert sum(line.get("event") == "unread_setting" for line in lines) == 1


@pytest.mark.parametrize(
    "arguments", [("history",), ("history", "--json"), ("--help",), ("check", "--json"), ("stamp", "x")]
)
def test_a_reader_that_leaves_changes_no_exit_code(sqlite_place: SqlitePlace, tmp_path: Path, arguments: Any) -> None:
    """The reader of standard output has left: the command exits with its usual code and prints nothing more."""
    ini = tree(tmp_path, CREATE)
    sqlite_place.path.touch()
    expected = run(*arguments, env=settings(sqlite_place, ini))
    assert expected[0] == {"check": 3, "stamp": 2}.get(arguments[0], 0)
    with pipe_without_a_reader() as nobody:
        code, _, err = run(*arguments, env=settings(sqlite_place, ini), out=nobody)
    assert (code, err) == (expected[0], expected[2])


@pytest.mark.parametrize("command", ["upgrade", "upgrade --json", "--help"])
def test_a_result_that_cannot_be_written_is_reported(sqlite_place: SqlitePlace, tmp_path: Path, command: str) -> None:
    """The disk of standard output is full: the migration is done, the exit code is 1, and standard error says both."""
    code, _, err = in_a_shell(f"{command} > /dev/full", settings(sqlite_place, tree(tmp_path, CREATE)))
    assert code == 1
    assert err.splitlines()[-1].endswith("could not be written to standard output: No space left on device")
    assert ("Traceback" in err, "Exception ignored" in err) == (False, False)
    if command != "--help":
        assert err.splitlines()[-1].startswith("The command is done, but its result")
        assert versions(sqlite_place) == ["r1"]


def test_an_error_that_cannot_be_written_keeps_its_exit_code(sqlite_place: SqlitePlace, tmp_path: Path) -> None:
    """A command fails and standard output is full: the error is on standard error, and the exit code stays 2."""
    with Path("/dev/full").open("wb") as full:
        code, _, err = run("stamp", "nope", "--json", env=settings(sqlite_place, tree(tmp_path, CREATE)), out=full)
    assert (code, "UnknownRevision: this build has no revision 'nope'" in err) == (2, True)


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_a_revision_whose_output_is_lost_is_applied(sqlite_place: SqlitePlace, tmp_path: Path, log_format: str) -> None:
    """A revision prints into a pipe without a reader, as in `upgrade 2>&1 | head -1`: it is still applied."""
    env = settings(sqlite_place, tree(tmp_path, PRINTS), MIGRATION_LOG_FORMAT=log_format)
    with pipe_without_a_reader() as nobody:
        code, _, _ = run("upgrade", env=env, out=nobody, err=nobody)
    assert code == 0
    assert versions(sqlite_place) == ["r1"]


OPEN = CREATE + (
    'import os\nfound = {os.readlink(f"/proc/self/fd/{number}") for number in range(3)}\n'
    'assert found == {"/dev/null"}, found'
)


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        ("upgrade 2>&-", 0, "  r1, Do r1\nthe database is at head (r1)\n"),
        ("upgrade <&- >&- 2>&-", 0, ""),
        ("stamp nope 2>&-", 2, "UnknownRevision: this build has no revision 'nope'"),
        ("stamp nope --json 2>&-", 2, '{"error": "UnknownRevision"'),
    ],
    ids=["done", "all of them", "refused", "refused in JSON"],
)
def test_a_closed_stream_does_not_stop_a_command(
    sqlite_place: SqlitePlace, tmp_path: Path, command: str, code: int, said: str
) -> None:
    """Standard streams are closed: the command still runs or reports its error; no socket gets a stream's number."""
    env = settings(sqlite_place, tree(tmp_path, OPEN if ">&- " in command else CREATE))
    ended, out, _ = in_a_shell(command, env)
    assert ended == code
    assert out.startswith(said)
    if command.startswith("upgrade"):
        assert versions(sqlite_place) == ["r1"]
