"""Revisions run on the connection that env.py opens, under the lock of the first session: SQLite and MariaDB."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from api.migrations.core.lock_key import LockKey
from api.migrations.core.protocols import MigrationRequest
from api.migrations.core.reporter import ProgressReporter
from api.migrations.core.status import Tracker
from api.migrations.errors import DatabaseUnreachable, ForeignConnection, HoldLost, RevisionFailed
from tests.acceptance import portable
from tests.acceptance.portable import FOR_EVER
from tests.integration.sql_runs import GROUND, HEAD, MARK, outcomes
from tests.support.fakes import assembled, revision, tree
from tests.support.places import HISTORY, MariaDBPlace, Place, SqlitePlace, marks, versions
from tests.support.waiting import wait_until

OWN = """
from alembic import context
from sqlalchemy import create_engine, event

engine = create_engine({url!r}, connect_args={{'timeout': 7}}{options})
{events}
with engine.connect() as connection:
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()
    assert connection.connection.cursor().execute("PRAGMA busy_timeout").fetchone() == (7000,)
    assert engine.dialect.do_begin.__func__ is type(engine.dialect).do_begin
"""
OWN_ASYNC = """
import asyncio
from alembic import context
from sqlalchemy import NullPool
from sqlalchemy.ext.asyncio import create_async_engine


def migrate(connection):
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()


async def main():
    engine = create_async_engine({url!r}, poolclass=NullPool{options})
    async with engine.connect() as connection:
        await connection.run_sync(migrate)


asyncio.run(main())
"""
BY_HAND = """
@event.listens_for(engine, "connect")
def connect(driver, _):
    driver.isolation_level = None

@event.listens_for(engine, "begin")
def begin(connection):
    connection.exec_driver_sql("BEGIN")
"""
KEYS = """
@event.listens_for(engine, "connect")
def connect(driver, _):
    driver.execute("PRAGMA foreign_keys = ON")
    driver.execute("PRAGMA journal_mode = WAL")
"""
MISSING = 'op.execute("INSERT INTO nowhere VALUES (1)")'
FAILS = 'op.execute("CREATE TABLE lost (n integer)")\n' + MARK.format("lost") + MISSING


def own(url: str, options: str = "", events: str = "") -> str:
    """Return an env.py that opens a pooled connection of its own, and checks that its settings are set back."""
    return OWN.format(url=url, options=options, events=events)


def own_async(place: Place, options: str = "", name: str = "") -> str:
    """Return an env.py that opens an asynchronous connection of its own, to the database `name` if it is given."""
    scheme = {"sqlite": "sqlite+aiosqlite"}.get(place.kind, "mysql+asyncmy")
    url = place.url.replace(place.url.partition(":")[0], scheme, 1)
    return OWN_ASYNC.format(url=url.rpartition("/")[0] + f"/{name}" if name else url, options=options)


async def start(place: Place, ini: Path, *, backs_off: bool = True) -> None:
    """Reach head as an instance does at its start."""
    assembly = assembled(place.url, ini, strategy="advisory_lock")
    await assembly.coordinator(replace(assembly.policy, backs_off=backs_off)).become_ready()


@pytest.mark.parametrize("events", ["", BY_HAND, KEYS], ids=["plain", "BEGIN by hand", "foreign keys and WAL"])
async def test_ddl_is_rolled_back_on_the_connection_of_env_py(
    sqlite_place: SqlitePlace, tmp_path: Path, events: str
) -> None:
    """A revision fails after DDL: it is rolled back and recorded, and the settings of the connection are set back."""
    ini = tree(tmp_path, GROUND, FAILS, env=own(sqlite_place.url, events=events))
    with pytest.raises(RevisionFailed, match=r"revision r2.* failed and was rolled back"):
        await start(sqlite_place, ini)
    assert outcomes(sqlite_place) == [("r1", "applied"), ("r2", "failed")]
    assert (versions(sqlite_place), sqlite_place.has("lost")) == (["r1"], False)
    assert marks(sqlite_place) == []
    assert sqlite_place.lock_is_free()


@pytest.mark.parametrize(
    ("options", "words"),
    [("", "connects to the SQLite file .*other.db"), (", isolation_level='AUTOCOMMIT'", "in autocommit")],
)
async def test_a_connection_that_cannot_be_made_safe_is_refused(
    sqlite_place: SqlitePlace, tmp_path: Path, options: str, words: str
) -> None:
    """env.py opens another file, or a connection in autocommit: the start is refused by name, before any revision."""
    (tmp_path / "other.db").touch()
    url = sqlite_place.url if options else f"sqlite:///{tmp_path / 'other.db'}"
    ini = tree(tmp_path, GROUND, env=own(url, options))
    with pytest.raises(ForeignConnection, match=words):
        await start(sqlite_place, ini)
    assert not sqlite_place.has("marks")
    assert sqlite_place.lock_is_free()


async def test_a_connection_to_another_kind_of_database_is_refused(mariadb_place: MariaDBPlace, tmp_path: Path) -> None:
    """DATABASE_URL names a MariaDB database, and env.py opens a SQLite file: the start is refused before the lock."""
    (tmp_path / "other.db").touch()
    ini = tree(tmp_path, GROUND, env=own(f"sqlite:///{tmp_path / 'other.db'}"))
    with pytest.raises(ForeignConnection, match="connects to a sqlite database"):
        await start(mariadb_place, ini)


@pytest.mark.parametrize("place", ["sqlite", "mariadb"], indirect=True)
async def test_a_cancelled_run_stops_on_the_connection_of_env_py(place: Place, tmp_path: Path) -> None:
    """A run is cancelled within a long statement: it is stopped and rolled back before the lock is released."""
    reached = f"from pathlib import Path\nPath({str(tmp_path / 'reached')!r}).touch()\n"
    body = f"{MARK.format('lost')}{reached}op.execute({FOR_EVER[place.kind].format(seconds=300)!r})"
    assembly = assembled(place.url, tree(tmp_path, GROUND, body, env=own_async(place)), strategy="advisory_lock")
    session = (await assembly.inspect(create_file=True)).session()
    await session.open()
    assert await session.try_lock()
    run = asyncio.create_task(session.run(HEAD, ProgressReporter(Tracker())))
    await asyncio.to_thread(wait_until, (tmp_path / "reached").exists, "the statement")
    portable.until_in_statement(place)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert place.writers() == 0
    await session.close()
    assert place.lock_is_free()
    assert (versions(place), marks(place)) == (["r1"], [])


@pytest.mark.parametrize("place", ["mariadb", "mysql"], indirect=True)
async def test_ddl_on_the_connection_of_env_py_is_half_applied(place: Place, tmp_path: Path) -> None:
    """MySQL commits DDL: a revision that fails after it is half applied, and one without DDL is rolled back."""
    ini = tree(tmp_path, GROUND, MARK.format("lost") + MISSING, env=own_async(place))
    with pytest.raises(RevisionFailed, match=r"revision r2.* failed and was rolled back"):
        await start(place, ini)
    revision(tmp_path, "r2", 'op.execute("CREATE TABLE half (n integer)")\n' + MISSING, after="r1")
    with pytest.raises(RevisionFailed, match=r"revision r2.* failed after it had committed a part of its work"):
        await start(place, ini, backs_off=False)
    assert outcomes(place) == [("r1", "applied"), ("r2", "failed"), ("r2", "half_applied")]
    assert (versions(place), marks(place), place.lock_is_free()) == (["r1"], [], True)


@pytest.mark.parametrize(
    ("options", "name", "words"),
    [
        ("", "information_schema", "connects to the database 'information_schema', where this instance holds no lock"),
        (", isolation_level='AUTOCOMMIT'", "", "in autocommit"),
    ],
)
async def test_a_connection_to_mariadb_that_cannot_be_made_safe_is_refused(
    mariadb_place: MariaDBPlace, tmp_path: Path, options: str, name: str, words: str
) -> None:
    """env.py opens another database, or a connection in autocommit: the start is refused before any revision."""
    with pytest.raises(ForeignConnection, match=words):
        await start(mariadb_place, tree(tmp_path, GROUND, env=own_async(mariadb_place, options, name)))
    assert not mariadb_place.has("marks")
    assert mariadb_place.lock_is_free()


async def test_the_first_session_outlives_its_idle_limit(mariadb_place: MariaDBPlace, tmp_path: Path) -> None:
    """A revision takes longer than MIGRATION_IDLE_SECONDS: the first session, idle meanwhile, keeps its lock."""
    ini = tree(tmp_path, 'op.execute("DO SLEEP(2.5)")', env=own_async(mariadb_place))
    assembly = assembled(mariadb_place.url, ini, strategy="advisory_lock", idle_seconds=1)
    await assembly.coordinator().become_ready()
    assert outcomes(mariadb_place) == [("r1", "applied")]


async def test_no_revision_runs_while_the_session_of_a_dead_process_does(
    mariadb_place: MariaDBPlace, tmp_path: Path
) -> None:
    """Another session holds the second lock, as that of a killed process in a statement: the run is retried."""
    key = LockKey.derive("fastapi", "alembic_version", mariadb_place.database)
    assembly = assembled(
        mariadb_place.url, tree(tmp_path, GROUND, env=own_async(mariadb_place)), strategy="advisory_lock"
    )
    with mariadb_place.server.holding(f"DO GET_LOCK('{key.second.channel}', 0)", database=mariadb_place.database):
        work = asyncio.create_task(assembly.coordinator().become_ready())
        words = "still runs revisions"
        await asyncio.to_thread(wait_until, lambda: words in str(assembly.tracker.status.message), "a retry")
        assert not mariadb_place.has("marks")
    await work
    assert outcomes(mariadb_place) == [("r1", "applied")]


async def test_a_busy_file_is_waited_for(sqlite_place: SqlitePlace, tmp_path: Path) -> None:
    """Another session writes while env.py's connection is prepared: the run is retried until it has ended."""
    ini = tree(tmp_path, GROUND, env=own(sqlite_place.url))
    assembly = assembled(sqlite_place.url, ini, strategy="advisory_lock", lock_timeout_seconds=0.1)
    with portable.another_session_blocks(sqlite_place):
        work = asyncio.create_task(assembly.coordinator().become_ready())
        await asyncio.to_thread(wait_until, lambda: assembly.tracker.status.counters.contended > 0, "a retry")
    await work
    assert outcomes(sqlite_place) == [("r1", "applied")]


async def test_a_removed_lock_file_ends_the_run(sqlite_place: SqlitePlace, tmp_path: Path) -> None:
    """The lock file is removed while a revision runs: the revision is rolled back before COMMIT."""
    remove = f"from pathlib import Path\nPath({str(sqlite_place.lock_file)!r}).unlink()\n" + GROUND
    ini = tree(tmp_path, remove, env=own(sqlite_place.url))
    assembly = await assembled(sqlite_place.url, ini, strategy="advisory_lock").inspect(create_file=True)
    with pytest.raises(HoldLost, match="was removed while it was locked"):
        await assembly.coordinator().become_ready()
    assert not sqlite_place.has("marks")


async def test_commands_run_on_the_connection_of_env_py(sqlite_place: SqlitePlace, tmp_path: Path) -> None:
    """A command that only reads creates no missing file; `upgrade`, `downgrade` and `stamp` run as on ours."""
    ini = tree(tmp_path, GROUND, MARK.format("r2"), env=own(sqlite_place.url))
    with pytest.raises(DatabaseUnreachable, match="does not exist"):
        await assembled(sqlite_place.url, ini, strategy="advisory_lock").inspect()
    assert not sqlite_place.path.exists()
    for request in (HEAD, MigrationRequest("downgrade", "r1"), MigrationRequest("stamp", "r2")):
        assembly = await assembled(sqlite_place.url, ini, strategy="advisory_lock").inspect(create_file=True)
        await assembly.operator_coordinator().execute(request)
    rows = [tuple(row) for row in sqlite_place.rows(f"SELECT direction, revision FROM {HISTORY} ORDER BY id")]
    assert rows == [("upgrade", "r1"), ("upgrade", "r2"), ("downgrade", "r2"), ("stamp", "r2")]
    assert (versions(sqlite_place), marks(sqlite_place)) == (["r2"], ["r2"])
