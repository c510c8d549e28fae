"""Backups of SQLite: taken under the lock while somebody writes, and the printed command restores the database."""

import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.support import backups, project
from tests.support.fleet import migrate

NATIVE = "advisory_lock"
"""The strategy, by name: a test's folder may be a container's own, where `auto` refuses a file."""
BELOW = project.revisions()[-2]
ROWS = 2000


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A ledger one revision below its head, in WAL mode, with a table that pairs of rows go into."""
    path = tmp_path / "shop.db"
    code, output = migrate("upgrade", BELOW, url=f"sqlite:///{path}", MIGRATION_STRATEGY=NATIVE)
    assert code == 0, output
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("CREATE TABLE pairs (amount INTEGER, filling TEXT)")
        database.executemany("INSERT INTO pairs VALUES (?, ?)", [(sign, "x" * 1000) for sign in (1, -1)] * ROWS)
        database.commit()
    return path


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Somebody adds pairs that cancel out, each in a transaction, for the whole of the block."""
    stop, wrote = threading.Event(), threading.Event()

    def write() -> None:
        with closing(sqlite3.connect(path, timeout=30)) as database:
            # SQLite is not fair: who never pauses lets nobody else in
            while not stop.wait(0.002):
                with database:
                    database.executemany("INSERT INTO pairs VALUES (?, ?)", [(7, "y"), (-7, "y")])
                wrote.set()

    thread = threading.Thread(target=write)
    thread.start()
    try:
        assert wrote.wait(30)
        yield
    finally:
        stop.set()
        thread.join()


def read(path: Path, sql: str) -> list[tuple[object, ...]]:
    """The rows of a query."""
    with closing(sqlite3.connect(path)) as database:
        return database.execute(sql).fetchall()


def test_a_backup_under_load_restores(shop: Path, tmp_path: Path) -> None:
    """It is of the revision before the upgrade, whole in its transactions, and restores beside the database."""
    folder = tmp_path / "backups"
    with writing(shop):
        code, output = migrate(
            "upgrade", "--backup", "--to", str(folder), url=f"sqlite:///{shop}", MIGRATION_STRATEGY=NATIVE
        )
    assert code == 0, output
    [backup, checksum] = backups.files(folder)
    assert backup.startswith(f"shop.db@{BELOW}@")
    assert checksum == f"{backup}.sha256"
    subprocess.run(["sha256sum", "--check", "--quiet", checksum], cwd=folder, check=True)
    [command] = [line.strip() for line in output.splitlines() if line.strip().startswith("cp -n ")]
    subprocess.run(command, shell=True, check=True)
    restored = shop.with_name("shop.db.restored")
    assert read(restored, "SELECT version_num FROM alembic_version") == [(BELOW,)]
    [(total, count)] = read(restored, "SELECT sum(amount), count(*) FROM pairs")
    assert total == 0
    assert isinstance(count, int)
    assert count > 2 * ROWS
    assert read(shop, "SELECT version_num FROM alembic_version") == [(project.head(),)]
    noted = read(shop, "SELECT note FROM alembic_version_history WHERE outcome = 'backed_up'")
    assert noted == [(command,)]


def test_nothing_is_changed_without_the_backup(shop: Path, tmp_path: Path) -> None:
    """A folder that cannot be made is said, and the database stays where it was."""
    (tmp_path / "taken").write_text("")
    folder = tmp_path / "taken" / "backups"
    code, output = migrate(
        "upgrade", "--backup", "--to", str(folder), url=f"sqlite:///{shop}", MIGRATION_STRATEGY=NATIVE
    )
    assert code == 1, output
    assert "no backup can be written" in output
    assert read(shop, "SELECT version_num FROM alembic_version") == [(BELOW,)]


def test_a_backup_that_takes_too_long_leaves_nothing(shop: Path, tmp_path: Path) -> None:
    """Its thread has ended, and what it wrote is gone, before the command is."""
    folder = tmp_path / "backups"
    url, limit = f"sqlite:///{shop}", "0.000001"
    command = ("upgrade", "--backup", "--to", str(folder))
    code, output = migrate(*command, url=url, MIGRATION_BACKUP_SECONDS=limit, MIGRATION_STRATEGY=NATIVE)
    assert code == 1, output
    assert "MIGRATION_BACKUP_SECONDS" in output
    assert backups.files(folder) == []
    assert read(shop, "SELECT version_num FROM alembic_version") == [(BELOW,)]


def test_old_backups_of_this_database_go(shop: Path, tmp_path: Path) -> None:
    """The newest stay; another database's files are nobody's business."""
    folder = tmp_path / "backups"
    folder.mkdir()
    other = folder / f"other.db@{BELOW}@20200101T000000.000Z.sqlite"
    other.write_text("")
    for _ in range(3):
        url, command = f"sqlite:///{shop}", ("backup", "--to", str(folder))
        code, output = migrate(*command, url=url, MIGRATION_BACKUP_KEEP="2", MIGRATION_STRATEGY=NATIVE)
        assert code == 0, output
    ours = [name for name in backups.files(folder) if name.startswith("shop.db@") and name.endswith(".sqlite")]
    assert len(ours) == 2
    assert other.exists()


def test_mysql_has_none() -> None:
    """Asked for one, it says what makes one, before anything is touched."""
    code, output = migrate("upgrade", "--backup", url="mysql://u:p@127.0.0.1:1/shop")
    assert code == 2, output
    assert "mysqldump" in output
