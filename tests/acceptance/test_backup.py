"""A backup by `./migrate.sh` that is taken under load restores, and no DDL runs before the backup is complete."""

import asyncio
import hashlib
import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import pytest

from tests.acceptance import holders
from tests.support import backups, evidence, project
from tests.support.fakes import in_the_way
from tests.support.fleet import WAIT_SECONDS, finish, migrate, start_migrate
from tests.support.pace import scaled
from tests.support.servers import Server, fetch_sync
from tests.support.waiting import wait_until

pytestmark = pytest.mark.acceptance

log = logging.getLogger(__name__)

PASSWORD = "geh3im"
LOCK = "LOCK TABLE accounts"
"""While a session holds this lock no other session can read the table, so a real pg_dump blocks in the server."""
IN_THE_DUMP = (
    "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE '%:backup:%'"
)
TRANSFER = """
    WITH t AS (INSERT INTO transactions (idempotency_key, request_sha256, description)
               VALUES (gen_random_uuid(), 'd', 'load') RETURNING id)
    INSERT INTO postings (transaction_id, position, account_id, currency, amount)
    SELECT t.id, side, side, 'EUR', CASE side WHEN 1 THEN 7 ELSE -7 END FROM t, generate_series(1, 2) AS side
"""
ROWS = """
    SELECT (SELECT array_agg(id ORDER BY id) FROM transactions) AS ids,
           (SELECT sum(amount)::int FROM postings) AS sum, (SELECT count(*) FROM postings) AS postings,
           (SELECT count(*) FROM accounts) AS accounts
"""


@pytest.fixture
def owner_url(server: Server, ledger_url: str) -> Iterator[str]:
    """Yield the database at head as a superuser with a password, so that a test can see a leak of the password."""
    name = ledger_url.rpartition("/")[2]
    server.execute(f"CREATE ROLE {name}_owner SUPERUSER LOGIN PASSWORD '{PASSWORD}'")
    yield server.url(name, user=f"{name}_owner", password=PASSWORD)
    server.execute(f"DROP OWNED BY {name}_owner", database=name)
    server.execute(f"DROP ROLE {name}_owner")


@contextmanager
def load(url: str) -> Iterator[None]:
    """Transfer money in one transaction after another while the block runs."""
    fetch_sync(url, "INSERT INTO accounts (name, currency) VALUES ('a', 'EUR'), ('b', 'EUR')")
    stop = threading.Event()

    async def transfer() -> None:
        connection = await asyncpg.connect(url)
        while not stop.is_set():
            await connection.execute(TRANSFER)
        await connection.close()

    writer = threading.Thread(target=asyncio.run, args=(transfer(),))
    writer.start()
    try:
        yield
    finally:
        stop.set()
        writer.join()


def rows(url: str) -> dict[str, Any]:
    """Return the transactions, their sum, and the number of postings and accounts in the ledger."""
    return dict(fetch_sync(url, ROWS)[0])


def backed_up(url: str) -> list[dict[str, Any]]:
    """Return the backups that the history records."""
    return [row for row in evidence.history(url) if row["outcome"] == "backed_up"]


def behind(folder: Path, *more: project.Revision) -> Path:
    """Create a history in which the revision `quick`, and `more`, are pending."""
    return project.make_history(folder / "history", project.quick(), *more)


def dumping(url: str) -> list[int]:
    """Return the pids of the server sessions that serve a pg_dump and wait for a lock."""
    return [row[0] for row in fetch_sync(url, f"{IN_THE_DUMP} AND wait_event_type = 'Lock'")]


def test_a_backup_under_load_restores(server: Server, owner_url: str, tmp_path: Path) -> None:
    """`backup` runs during transfers; the printed command restores its revision and exactly the rows of one moment."""
    name = owner_url.rpartition("/")[2]
    folder = tmp_path / "new" / "backups"
    with load(owner_url):
        wait_until(lambda: len(rows(owner_url)["ids"] or []) > 20, "a few transfers", seconds=WAIT_SECONDS)
        before = rows(owner_url)
        code, output = migrate("backup", "--to", str(folder), url=owner_url, PATH=backups.path())
        assert code == 0, output
    after = rows(owner_url)
    (row,) = backed_up(owner_url)
    assert (row["direction"], row["revision"]) == ("backup", project.head())
    (file,) = folder.glob("*.dump")
    assert f"{name}@{project.head()}@" in file.name
    assert backups.files(folder) == [file.name, f"{file.name}.sha256"]
    assert {oct(path.stat().st_mode)[-3:] for path in folder.iterdir()} == {"600"}
    assert oct(folder.stat().st_mode)[-3:] == "700"
    assert PASSWORD not in output
    subprocess.run(["sha256sum", "-c", f"{file.name}.sha256"], cwd=folder, check=True)
    assert hashlib.sha256(file.read_bytes()).hexdigest() in output
    assert row["note"] in output
    try:
        restore(row["note"], server, owner_url)
        restored = rows(server.url(f"{name}_restored"))
        there = len(restored["ids"])
        log.info("%d of %d transfers are in the backup", there, len(after["ids"]))
        assert restored["ids"] == after["ids"][:there]
        assert len(before["ids"]) < there < len(after["ids"]), "nothing was written meanwhile"
        assert (restored["sum"], restored["postings"], restored["accounts"]) == (0, 2 * there, 2)
        assert evidence.versions(server.url(f"{name}_restored")) == [row["revision"]]
        code, output = migrate("check", url=server.url(f"{name}_restored"))
        assert code == 0, output
    finally:
        server.execute(f'DROP DATABASE IF EXISTS "{name}_restored"')


def restore(command: str, server: Server, url: str) -> None:
    """Run the printed restore command twice with the login in the environment; only the first run may succeed."""
    login = {"PGHOST": server.host, "PGPORT": str(server.port), "PGUSER": f"{url.rpartition('/')[2]}_owner"}
    settings = {**login, "PGPASSWORD": PASSWORD, "PATH": backups.path()}
    codes = [subprocess.run(command, shell=True, env={**os.environ, **settings}).returncode for _ in range(2)]
    assert codes[0] == 0
    assert codes[1] != 0, "it was restored over a database that is there"


def command_lines(pid: int) -> list[str]:
    """Return the command lines of a process and its children, as `ps` shows them."""
    lines = []
    for one in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True)):
        with suppress(psutil.NoSuchProcess):  # it has ended meanwhile
            lines.append(" ".join(one.cmdline()))
    return lines


@pytest.mark.parametrize("target", ["head", "quick"])
def test_no_ddl_runs_before_the_backup_is_complete(owner_url: str, tmp_path: Path, target: str) -> None:
    """During pg_dump `upgrade --backup` holds the lock, changes nothing, and no command line shows the password."""
    ini, folder = behind(tmp_path), tmp_path / "backups"
    tools = backups.held(tmp_path / "bin")
    settings = {"PATH": backups.path(tools), "MIGRATION_BACKUP_DIR": str(folder)}
    before = evidence.history(owner_url)
    with start_migrate("upgrade", target, "--backup", url=owner_url, ini=ini, **settings) as upgrade:
        wait_until((tools / "reached").exists, "pg_dump at work", seconds=WAIT_SECONDS)
        assert evidence.history(owner_url) == before
        assert evidence.marks(owner_url) == []
        assert evidence.advisory_locks(owner_url) == 1
        (partial,) = folder.iterdir()
        assert (partial.suffix, oct(partial.stat().st_mode)[-3:]) == (".partial", "600")
        assert [line for line in command_lines(upgrade.pid) if PASSWORD in line] == []
        (tools / "go").touch()
        code, output = finish(upgrade)
    assert code == 0, output
    assert PASSWORD not in output
    saved, applied = evidence.history(owner_url)[-2:]
    assert (saved["outcome"], saved["revision"]) == ("backed_up", project.head())
    assert (applied["outcome"], applied["revision"]) == ("applied", "quick")
    assert saved["started_at"] < saved["finished_at"] <= applied["started_at"]
    assert saved["note"] in output
    assert evidence.versions(owner_url) == ["quick"]
    _, output = migrate("history", url=owner_url, ini=ini)
    assert f"backup    backed_up    {project.head()}" in output
    assert saved["note"] in output


def test_a_long_backup_is_not_cut_off_by_the_limits_of_the_run(ledger_url: str, tmp_path: Path) -> None:
    """pg_dump outlasts MIGRATION_RUN_SECONDS and MIGRATION_IDLE_SECONDS: `unlock` refuses and the upgrade succeeds."""
    ini, folder = behind(tmp_path), tmp_path / "backups"
    tools = backups.held(tmp_path / "bin")
    settings = {"PATH": backups.path(tools), "MIGRATION_BACKUP_DIR": str(folder)}
    idle, budget = f"{scaled(2.5):g}", f"{scaled(3):g}"
    limits = {"MIGRATION_IDLE_SECONDS": idle, "MIGRATION_RUN_SECONDS": budget, "MIGRATION_WAIT_SECONDS": budget}
    age = "SELECT clock_timestamp() - min(backend_start) FROM pg_stat_activity"
    late = f"SELECT ({age} WHERE {holders.MIGRATING}) > '{scaled(7):g} s'"
    with start_migrate("upgrade", "--backup", url=ledger_url, ini=ini, **settings, **limits) as upgrade:
        wait_until((tools / "reached").exists, "pg_dump at work", seconds=WAIT_SECONDS)
        holder = holders.pids(ledger_url)
        code, output = migrate("unlock", url=ledger_url, ini=ini)
        assert code == 1, output
        assert "repeat with --force" in output
        wait_until(lambda: bool(fetch_sync(ledger_url, late)[0][0]), "every limit", seconds=WAIT_SECONDS)
        assert holders.pids(ledger_url) == holder
        (tools / "go").touch()
        code, output = finish(upgrade)
    assert code == 0, output
    assert [row["outcome"] for row in evidence.history(ledger_url)[-2:]] == ["backed_up", "applied"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_terminates_pg_dump(ledger_url: str, tmp_path: Path, number: signal.Signals) -> None:
    """A signal during pg_dump: the upgrade exits with 128 + n and leaves no process, session, lock or partial file."""
    ini, folder = behind(tmp_path), tmp_path / "backups"
    settings = {"PATH": backups.path(), "MIGRATION_BACKUP_DIR": str(folder)}
    before = evidence.history(ledger_url)
    async with in_the_way(ledger_url, LOCK, "lunch"):
        with start_migrate("upgrade", "--backup", url=ledger_url, ini=ini, **settings) as upgrade:
            wait_until(lambda: dumping(ledger_url) != [], "pg_dump in the server", seconds=WAIT_SECONDS)
            children = psutil.Process(upgrade.pid).children(recursive=True)
            assert [child.name() for child in children] == ["pg_dump"]
            upgrade.send_signal(number)
            sent = time.monotonic()
            code, output = finish(upgrade, seconds=WAIT_SECONDS)
            log.info("ended %.2f s after %s", time.monotonic() - sent, number.name)
        assert code == 128 + number, output
        assert f"stopped by {number.name}" in output
        assert [child for child in children if child.is_running()] == []
        wait_until(lambda: evidence.sessions(ledger_url) == [], "every session gone", seconds=WAIT_SECONDS)
    assert evidence.advisory_locks(ledger_url) == 0
    assert backups.files(folder) == []
    assert evidence.history(ledger_url) == before


async def test_the_pg_dump_of_a_killed_upgrade_is_terminated_by_the_next(ledger_url: str, tmp_path: Path) -> None:
    """SIGKILL leaves a pg_dump that still holds locks; the next upgrade terminates its session and migrates."""
    ini, folder = behind(tmp_path), tmp_path / "backups"
    settings = {"PATH": backups.path(), "MIGRATION_BACKUP_DIR": str(folder)}
    async with in_the_way(ledger_url, LOCK, "lunch"):
        with start_migrate("upgrade", "--backup", url=ledger_url, ini=ini, **settings) as upgrade:
            wait_until(lambda: dumping(ledger_url) != [], "pg_dump in the server", seconds=WAIT_SECONDS)
            (child,) = psutil.Process(upgrade.pid).children(recursive=True)
            upgrade.kill()
            finish(upgrade)
        code, output = migrate("upgrade", url=ledger_url, ini=ini)
        assert code == 0, output
        assert dumping(ledger_url) == []
        wait_until(lambda: not child.is_running(), "pg_dump gone", seconds=WAIT_SECONDS)
    assert evidence.marks(ledger_url) == ["quick"]
    assert [name.rpartition(".")[2] for name in backups.files(folder)] == ["partial"]


async def test_a_lost_lock_terminates_pg_dump(ledger_url: str, tmp_path: Path) -> None:
    """The lock's session is terminated during pg_dump: the upgrade acquires the lock again and records one backup."""
    ini, folder = behind(tmp_path), tmp_path / "backups"
    settings = {"PATH": backups.path(), "MIGRATION_BACKUP_DIR": str(folder)}
    async with in_the_way(ledger_url, LOCK, "lunch") as lunch:
        with start_migrate("upgrade", "--backup", url=ledger_url, ini=ini, **settings) as upgrade:
            wait_until(lambda: dumping(ledger_url) != [], "pg_dump in the server", seconds=WAIT_SECONDS)
            first = dumping(ledger_url)
            holders.signal_holder(ledger_url, "pg_terminate_backend")
            wait_until(lambda: dumping(ledger_url) not in ([], first), "another pg_dump", seconds=WAIT_SECONDS)
            assert len(dumping(ledger_url)) == 1
            await lunch.execute("ROLLBACK")
            code, output = finish(upgrade)
    assert code == 0, output
    assert "they migrate without holding the lock" not in output, "it had to be ended by the next"
    assert len(backed_up(ledger_url)) == 1
    assert len(list(folder.iterdir())) == 2
    assert evidence.applied(ledger_url)[-1:] == ["quick"]


def test_old_backups_are_deleted(ledger_url: str, tmp_path: Path) -> None:
    """With MIGRATION_BACKUP_KEEP=2 the third backup deletes the oldest; an upgrade at head takes and deletes none."""
    ini, folder = behind(tmp_path), tmp_path / "backups"
    settings = {"PATH": backups.path(), "MIGRATION_BACKUP_DIR": str(folder), "MIGRATION_BACKUP_KEEP": "2"}
    for arguments in (["backup"], ["backup"], ["upgrade", "--backup"]):
        code, output = migrate(*arguments, url=ledger_url, ini=ini, **settings)
        assert code == 0, output
    kept = backups.files(folder)
    notes = [row["note"].rpartition("/")[2] for row in backed_up(ledger_url)]
    assert kept == sorted(name for note in notes[1:] for name in (note, f"{note}.sha256"))
    code, output = migrate("upgrade", "--backup", url=ledger_url, ini=ini, **settings)
    assert (code, "nothing was pending, so no backup was made" in output) == (0, True), output
    assert backups.files(folder) == kept
    assert len(backed_up(ledger_url)) == 3


def test_a_folder_without_a_backup_is_refused(ledger_url: str) -> None:
    """`upgrade --to` without --backup would create no backup, so the command exits with 2 and proposes --backup."""
    code, output = migrate("upgrade", "--to", "there", url=ledger_url)
    assert (code, "add --backup" in output) == (2, True), output
