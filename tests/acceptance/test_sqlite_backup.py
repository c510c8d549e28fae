"""A SQLite backup is taken under the lock while another connection writes, and the printed command restores it."""

import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.support import backups, project
from tests.support.fleet import migrate

pytestmark = pytest.mark.acceptance

NATIVE = "advisory_lock"
"""The tests name the strategy, because `auto` refuses a SQLite file in a container's own file system."""
BELOW = project.revisions()[-2]
ROWS = 2000


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """Create a ledger one revision below its head, in WAL mode, with a table for pairs of rows."""
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
    """Insert pairs of rows that cancel out, each in a transaction, while the block runs."""
    stop, wrote = threading.Event(), threading.Event()

    def write() -> None:
        with closing(sqlite3.connect(path, timeout=30)) as database:
            # SQLite is not fair: a writer that never pauses lets no other session write
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
    """Return the rows of a query."""
    with closing(sqlite3.connect(path)) as database:
        return database.execute(sql).fetchall()


def test_a_backup_under_load_restores(shop: Path, tmp_path: Path) -> None:
    """`upgrade --backup` runs during writes: the backup has the old revision and whole transactions, and restores."""
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


def test_nothing_is_changed_if_the_backup_fails(shop: Path, tmp_path: Path) -> None:
    """The backup folder cannot be created: `upgrade --backup` exits with 1, and the database keeps its revision."""
    (tmp_path / "taken").write_text("")
    folder = tmp_path / "taken" / "backups"
    code, output = migrate(
        "upgrade", "--backup", "--to", str(folder), url=f"sqlite:///{shop}", MIGRATION_STRATEGY=NATIVE
    )
    assert code == 1, output
    assert "no backup can be written" in output
    assert read(shop, "SELECT version_num FROM alembic_version") == [(BELOW,)]


def test_a_backup_that_times_out_leaves_nothing(shop: Path, tmp_path: Path) -> None:
    """A backup exceeds MIGRATION_BACKUP_SECONDS: `upgrade` exits with 1, leaves no file and changes nothing."""
    folder = tmp_path / "backups"
    url, limit = f"sqlite:///{shop}", "0.000001"
    command = ("upgrade", "--backup", "--to", str(folder))
    code, output = migrate(*command, url=url, MIGRATION_BACKUP_SECONDS=limit, MIGRATION_STRATEGY=NATIVE)
    assert code == 1, output
    assert "MIGRATION_BACKUP_SECONDS" in output
    assert backups.files(folder) == []
    assert read(shop, "SELECT version_num FROM alembic_version") == [(BELOW,)]


def test_only_old_backups_of_this_database_are_deleted(shop: Path, tmp_path: Path) -> None:
    """With MIGRATION_BACKUP_KEEP=2 the newest two of three backups stay, and so does the file of another database."""
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


def test_mysql_has_no_backup() -> None:
    """`upgrade --backup` on MySQL exits with 2 before it connects, and names mysqldump."""
    code, output = migrate("upgrade", "--backup", url="mysql://u:p@127.0.0.1:1/shop")
    assert code == 2, output
    assert "mysqldump" in output
