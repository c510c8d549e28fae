"""A PostgreSQL backup that fails changes nothing and leaves no file; pg_dump connects like the migration's session."""

import asyncio
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from api.migrations.assembly import Assembly
from api.migrations.core.protocols import MigrationRequest
from api.migrations.databases.backups import pg_dump as dump
from api.migrations.databases.backups.pg_dump import environment
from api.migrations.databases.postgres.connection import connect
from api.migrations.errors import BackupFailed, DirectConnectionNeeded, MigrationError
from api.migrations.execution.limits import Limits
from api.migrations.urls.database_url import DatabaseURL
from devtools.ports import free_port
from tests.support import backups
from tests.support.fakes import assembled, tree
from tests.support.pace import scaled
from tests.support.pooler import PgBouncer
from tests.support.servers import Server, fetch

PASSWORD = "p@ss/w%rd 'x\\"
ASK = "SELECT current_user, current_database(), inet_server_port(), current_setting('application_name')"
CREATE = 'op.execute("CREATE TABLE t (a int)")'
NEXT = 'op.execute("CREATE TABLE u (a int)")'


@pytest.fixture(autouse=True)
def _programs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Hide all PostgreSQL programs but those of the test server, unless a test puts others before them on PATH."""
    monkeypatch.setattr(dump, "INSTALLED", tmp_path / "none")
    monkeypatch.setenv("PATH", backups.path())


@pytest.fixture
def plain_url(server: Server, database_url: str) -> Iterator[str]:
    """Yield the URL of a role that may create tables, is no superuser and has a password of special characters."""
    name = database_url.rpartition("/")[2]
    server.execute(f"CREATE ROLE {name}_plain LOGIN PASSWORD '{PASSWORD.replace(chr(39), chr(39) * 2)}'")
    server.execute(f"GRANT CREATE ON SCHEMA public TO {name}_plain", database=name)
    yield server.url(name, user=f"{name}_plain", password=PASSWORD)
    server.execute(f"DROP OWNED BY {name}_plain", database=name)
    server.execute(f"DROP ROLE {name}_plain")


async def migrated(url: str, folder: Path, **settings: Any) -> Assembly:
    """Bring a database to r1, and return the assembly of an operator's command with r2 pending."""
    await assembled(url, tree(folder, CREATE)).coordinator().become_ready()
    return assembled(url, tree(folder, CREATE, NEXT), backup_dir=str(folder / "backups"), **settings)


async def refused(assembly: Assembly, url: str, *words: str) -> MigrationError:
    """Assert that `upgrade --backup` fails with `words`, changes nothing, leaves no file, and frees the lock."""
    before = await fetch(url, "SELECT * FROM alembic_version_history")
    with pytest.raises(MigrationError) as raised:
        await assembly.coordinator(backup=assembly.backup()).become_ready()
    message = str(raised.value)
    assert [word for word in words if word not in message] == [], message
    assert "\n" not in message
    assert "p@ss" not in message
    assert "127.0.0.1" not in message
    assert await fetch(url, "SELECT * FROM alembic_version_history") == before
    assert await fetch(url, "SELECT to_regclass('u')::text") == [(None,)]
    assert backups.files(Path(assembly.settings.backup_dir)) == []
    session = assembly.session()
    await session.open()
    assert await session.try_lock()
    await session.close()
    return raised.value


async def test_a_backup_without_pg_dump_says_how_to_install_it(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pg_dump is not on PATH: the backup fails and names the package to install, with the server's version."""
    assembly = await migrated(database_url, tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    await refused(assembly, database_url, "not installed", "apt-get install postgresql-client-")


@pytest.mark.parametrize("installed", [False, True])
async def test_an_old_pg_dump_is_refused_or_replaced_by_an_installed_one(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: bool
) -> None:
    """pg_dump is older than the server: the backup uses a newer one that is installed, or fails with both versions."""
    assembly = await migrated(database_url, tmp_path)
    monkeypatch.setenv("PATH", str(backups.old(tmp_path / "old")))
    if not installed:
        await refused(assembly, database_url, "pg_dump 13 is older than the server, which is PostgreSQL ")
        return
    (tmp_path / "none" / "99").mkdir(parents=True)
    (tmp_path / "none" / "99" / "bin").symlink_to(backups.programs())
    backup = assembly.backup()
    await assembly.coordinator(backup=backup).become_ready()
    assert len(backup.made) == 1


@pytest.mark.parametrize("name", ["file", "file/backups", "link"])
def test_a_backup_path_that_is_no_folder_is_refused(tmp_path: Path, name: str) -> None:
    """A file or a dangling link is in the backup's path: the command refuses it and names option and setting."""
    (tmp_path / "file").write_text("keep me")
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    assembly = assembled("postgresql://nobody@127.0.0.1:1/nowhere", tree(tmp_path, CREATE))
    there = tmp_path / name.partition("/")[0]
    with pytest.raises(
        BackupFailed, match=rf"{there} is not a folder; nothing was changed.*--to or MIGRATION_BACKUP_DIR"
    ):
        assembly.backup(str(tmp_path / name))
    assert (tmp_path / "file").read_text() == "keep me"


async def test_a_backup_folder_that_cannot_be_created_is_refused(database_url: str, tmp_path: Path) -> None:
    """Not even root can create the backup folder: the command fails and names the option and the setting."""
    assembly = await migrated(database_url, tmp_path)
    into = assembly.settings.model_copy(update={"backup_dir": "/proc/backups"})
    await refused(Assembly.build(into), database_url, "/proc/backups", "--to", "MIGRATION_BACKUP_DIR")


async def test_a_table_that_pg_dump_cannot_read_fails_the_backup(
    database_url: str, plain_url: str, tmp_path: Path
) -> None:
    """pg_dump has no permission for a table: the backup fails with the first line of pg_dump's error."""
    assembly = await migrated(plain_url, tmp_path)
    await fetch(database_url, "CREATE TABLE payroll (salary int)")
    error = await refused(assembly, database_url, "pg_dump failed (1)", "permission denied for table payroll")
    assert isinstance(error, BackupFailed)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ('echo "cannot: $PGPASSWORD" >&2; echo more >&2; exit 3', "pg_dump failed (3): cannot: …"),
        ("exit 4", "pg_dump failed (4): it gave no reason"),
        ("exit 0", "pg_restore failed (1)"),
        ('for last; do :; done; echo rubbish > "${last#--file=}"', "pg_restore failed (1)"),
        ('exec $real --schema-only "$@"', "has no data of alembic_version"),
    ],
)
async def test_a_failed_or_unreadable_dump_fails_the_backup(
    plain_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, words: str
) -> None:
    """pg_dump fails or writes an unusable file: the backup fails with the reason, and without the password."""
    monkeypatch.setenv("PATH", backups.path(backups.stand_in(tmp_path / "bin", body)))
    await refused(await migrated(plain_url, tmp_path), plain_url, words)


async def test_a_backup_that_times_out_ends_pg_dump(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pg_dump exceeds MIGRATION_BACKUP_SECONDS: the backup fails and pg_dump is terminated."""
    monkeypatch.setenv("PATH", backups.path(backups.held(tmp_path / "bin")))
    assembly = await migrated(database_url, tmp_path, backup_seconds=scaled(2))
    await refused(assembly, database_url, f"MIGRATION_BACKUP_SECONDS={scaled(2):g}", "nothing was changed")
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "bin" / "reached").read_text()), 0)


@pytest.mark.parametrize("mode", ["transaction", "session"])
async def test_a_backup_through_a_pooler_is_refused(
    database_url: str, pgbouncer: Callable[..., PgBouncer], tmp_path: Path, mode: str
) -> None:
    """The URL leads through PgBouncer: the backup is refused and the error names MIGRATION_DATABASE_URL."""
    await migrated(database_url, tmp_path)
    through = pgbouncer(pool_mode=mode).url(database_url.rpartition("/")[2])
    ini = tmp_path / "alembic.ini"
    assembly = assembled(through, ini, backup_dir=str(tmp_path / "backups"))
    error = await refused(assembly, database_url, "MIGRATION_DATABASE_URL", "direct endpoint")
    assert isinstance(error, DirectConnectionNeeded)


async def test_an_empty_database_is_backed_up(database_url: str, tmp_path: Path) -> None:
    """`upgrade --backup` on an empty database takes a backup and then migrates."""
    assembly = assembled(database_url, tree(tmp_path, CREATE), backup_dir=str(tmp_path / "backups"))
    backup = assembly.backup()
    await assembly.coordinator(backup=backup).become_ready()
    assert ["@base@" in made.path for made in backup.made] == [True]


async def test_a_backup_is_not_counted_as_an_attempt(database_url: str, tmp_path: Path) -> None:
    """The history has a backup's row: attempts and lineage ignore it, and upgrade and downgrade still work."""
    assembly = await migrated(database_url, tmp_path)
    session = assembly.session()
    await session.open()
    lineage = await session.store.lineage()
    await assembly.coordinator(backup=assembly.backup()).execute(MigrationRequest("backup", ""))
    assert await session.store.lineage() == lineage == {"r1": frozenset()}
    assert [past.outcome for past in await session.store.attempts(["r1"])] == ["applied"]
    assert await session.store.half_applied() is None
    (row,) = await session.store.runs(1)
    assert (row["direction"], row["outcome"], row["revision"]) == ("backup", "backed_up", "r1")
    await session.close()
    await assembled(database_url, tmp_path / "alembic.ini").coordinator().become_ready()
    await assembled(database_url, tmp_path / "alembic.ini").coordinator().execute(MigrationRequest("downgrade", "base"))


async def test_pg_dump_connects_where_the_session_is_connected(server: Server, plain_url: str, tmp_path: Path) -> None:
    """By host list, socket or URL settings, a child process gets the session's role, database, server and settings."""
    name, user = plain_url.rpartition("/")[2], plain_url.split("//")[1].partition(":")[0]
    dead = plain_url.replace("127.0.0.1", f"127.0.0.1:{free_port()},127.0.0.1")
    urls = [plain_url, dead, f"{plain_url}?sslmode=disable&work_mem=77MB&search_path=%22a+b%5Cc%22"]
    urls += [server.socket_url(name)]
    for text in urls:
        url = DatabaseURL.parse(text)
        connection = await connect(url, Limits(), "one")
        expected = await connection.fetchrow(ASK)
        settings = await connection.fetchrow("SELECT current_setting('work_mem'), current_setting('search_path')")
        child = await environment(connection, url, "two")
        await connection.close()
        sql = f"{ASK}, current_setting('work_mem'), current_setting('search_path')"
        process = await asyncio.create_subprocess_exec(
            str(backups.programs() / "psql"), "-XAtwc", sql, env=child, stdout=asyncio.subprocess.PIPE
        )
        output, _ = await process.communicate()
        shown = [str(value if value is not None else "") for value in [*expected[:3], "two", *settings]]
        assert output.decode().strip().split("|") == shown
        assert expected[0] == ("postgres" if text == urls[-1] else user)
        assert PASSWORD not in " ".join(f"{k}={v}" for k, v in child.items() if k != "PGPASSWORD")
