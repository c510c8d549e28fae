"""SQLite files that do not exist or cannot be opened: one line says so, and a reading command creates no file."""

import asyncio
import errno
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import aiosqlite
import pytest

from api.migrations.errors import AccessRefused, ConfigurationError, DatabaseUnreachable
from tests.support.fakes import assembled, tree
from tests.support.fleet import alembic
from tests.support.pace import scaled
from tests.support.places import SqlitePlace
from tests.support.project import make_history
from tests.support.waiting import FOREVER_SECONDS
from tests.support.warm import Process

PROJECT = Path(__file__).resolve().parents[2]
GROUND = 'op.execute("CREATE TABLE marks (revision varchar(40))")'
TIMES = 20


def migrate(folder: Path, path: Path, *arguments: str, **settings: str) -> tuple[int, list[str]]:
    """Run one command; return its exit code and the lines on standard error."""
    given = {
        "DATABASE_URL": f"sqlite:///{path}",
        "MIGRATION_STRATEGY": "advisory_lock",
        "MIGRATION_ALEMBIC_CONFIG": str(tree(folder, GROUND)),
        **settings,
    }
    command = [sys.executable, "-m", "api.migrations", *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with Process(command, cwd=PROJECT, env={**os.environ, **given}, text=True, **pipes) as process:  # type: ignore[call-overload]
        _, said = process.communicate(timeout=FOREVER_SECONDS)
    return process.returncode, said.splitlines()


def open_files() -> list[Path]:
    """Return the files that this process has open."""
    return [file.readlink() for file in Path("/proc/self/fd").iterdir() if file.is_symlink()]


def test_a_missing_folder_is_reported_in_one_line(tmp_path: Path) -> None:
    """The folder of the database does not exist: `upgrade` exits with 5 in one line with what to check."""
    code, lines = migrate(tmp_path, tmp_path / "nowhere" / "shop.db", "upgrade")
    assert (code, len(lines)) == (5, 1), lines
    assert "SQLITE_CANTOPEN while connecting: the file cannot be opened. To fix: check that its folder" in lines[0]


async def test_a_name_too_long_for_its_lock_file_is_refused(tmp_path: Path) -> None:
    """The file's name is too long for its lock file: it is refused at once with the maximum, which works."""
    ini = tree(tmp_path, GROUND)
    long = await refusal(ini, tmp_path / ("a" * 237 + ".db"))
    assert "\n" not in long
    most = int(long.partition("at most ")[2].split()[0])
    assert "at most" in await refusal(ini, tmp_path / ("a" * (most + 1)))
    fits = tmp_path / ("a" * most)
    await assembled(f"sqlite:///{fits}", ini, strategy="advisory_lock").coordinator().become_ready()


async def refusal(ini: Path, path: Path) -> str:
    """Start an instance that must be refused, and return the message."""
    with pytest.raises(ConfigurationError) as raised:
        await assembled(f"sqlite:///{path}", ini, strategy="advisory_lock").coordinator().become_ready()
    return str(raised.value)


def test_no_driver_thread_outlives_a_failed_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file cannot be opened, 20 times: no thread of the driver reports to a closed event loop."""
    complaints: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", complaints.append)
    assembly = assembled(f"sqlite:///{tmp_path}/nowhere/shop.db", tree(tmp_path, GROUND), strategy="advisory_lock")
    before = set(threading.enumerate())
    for _ in range(TIMES):
        with pytest.raises(AccessRefused):
            asyncio.run(assembly.session().open())
    for thread in set(threading.enumerate()) - before:
        thread.join()
    assert complaints == []


async def test_a_connection_that_cannot_be_used_is_closed(
    sqlite_place: SqlitePlace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Preparing a new connection fails: the connection and its file are closed."""
    assembly = assembled(sqlite_place.url, tree(tmp_path, GROUND), strategy="advisory_lock")

    async def fail(*_: Any) -> None:
        raise OSError(errno.EIO, "a bad disk")

    monkeypatch.setattr(aiosqlite.Connection, "set_progress_handler", fail)
    with pytest.raises(DatabaseUnreachable):
        await assembly.session().open()
    assert sqlite_place.path not in open_files()


@pytest.mark.parametrize("command", ["current", "status", "check", "history", "unlock", "wait", "backup", "doctor"])
def test_a_reading_command_creates_no_file(tmp_path: Path, command: str) -> None:
    """The path is misspelt: a reading command says that the file does not exist and creates none."""
    path = tmp_path / "misspelt.db"
    waits = dict.fromkeys(("MIGRATION_WAIT_SECONDS", "MIGRATION_RUN_SECONDS"), f"{scaled(0.5):g}")
    code, lines = migrate(tmp_path, path, command, MIGRATION_BACKUP_DIR=str(tmp_path / "kept"), **waits)
    assert code == (1 if command == "doctor" else 5), lines
    if command != "doctor":
        assert "the SQLite file misspelt.db of the URL does not exist" in lines[-1]
    assert not list(tmp_path.glob("misspelt*"))


def test_an_upgrade_creates_the_file(tmp_path: Path) -> None:
    """`upgrade` creates the file, also with strategy `job`."""
    SqlitePlace(tmp_path / "shop.db").need_volume()
    for name, revision in (("one.db", "head"), ("two.db", "r1")):
        code, lines = migrate(tmp_path, tmp_path / name, "upgrade", revision, MIGRATION_STRATEGY="job")
        assert code == 0, lines
        assert (tmp_path / name).exists()


def test_alembic_creates_the_file_only_for_autogenerate(tmp_path: Path) -> None:
    """`alembic current` creates no file; `alembic check` does, because it compares with an empty database."""
    ini = make_history(tmp_path / "history")
    url, strategy = f"sqlite:///{tmp_path / 'shop.db'}", {"MIGRATION_STRATEGY": "advisory_lock"}
    code, output = alembic("current", url=url, ini=ini, **strategy)
    assert (code, (tmp_path / "shop.db").exists()) == (1, False), output
    assert "the SQLite file shop.db of the URL does not exist" in output
    alembic("check", url=url, ini=ini, **strategy)
    assert (tmp_path / "shop.db").exists()
