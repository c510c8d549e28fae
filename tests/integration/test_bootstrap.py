"""An empty database gets the tables of the models and the head in one step, with MIGRATION_BOOTSTRAP=create_all."""

from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from api.migrations.core.protocols import MigrationRequest
from api.migrations.errors import AlreadyFailed, ConfigurationError, RevisionFailed, SchemaRefused
from tests.support.fakes import assembled, revision, tree
from tests.support.places import HISTORY, Place, PostgresPlace
from tests.support.pooler import StartPooler, through
from tests.support.servers import fetch

ENV = """
import sqlalchemy as sa
from api.migrations.environment import run_env

metadata = sa.MetaData()
kind = sa.Enum("x", "y", name="kind")
a = sa.Table("a", metadata, sa.Column("id", sa.Integer, primary_key=True), sa.Column("kind", kind))
b = sa.Table("b", metadata, sa.Column("a_id", sa.ForeignKey("a.id")), sa.Column("kind", kind))
{more}
run_env(metadata)
"""
OWN_CONNECTION = """
import sqlalchemy as sa
from alembic import context

metadata = sa.MetaData()
sa.Table("a", metadata, sa.Column("id", sa.Integer))
engine = sa.create_engine({url!r}, poolclass=sa.NullPool)
with engine.connect() as connection:
    context.configure(connection=connection, target_metadata=metadata)
    with context.begin_transaction():
        context.run_migrations()
"""
LOOP = """
import sqlalchemy as sa
from alembic import context

metadata = sa.MetaData()
sa.Table("a", metadata, sa.Column("kind", sa.Enum("x", "y", name="kind")))
connection = context.config.attributes["connection"]
for schema in ("one", "two"):
    connection.execute(sa.text(f"CREATE SCHEMA IF NOT EXISTS {schema}"))
    connection.execute(sa.text(f"SET search_path TO {schema}, one"))
    connection.commit()
    connection.dialect.default_schema_name = schema
    context.configure(connection=connection, target_metadata=metadata)
    with context.begin_transaction():
        context.run_migrations()
"""
FAILS = 'sa.event.listen(metadata, "after_create", sa.DDL("SELECT no_such_column"))'
R1 = 'op.execute("CREATE TABLE by_revision (a integer)")'
R2 = "with op.get_context().autocommit_block():\n    op.execute('SELECT 1')"


@pytest.fixture(params=["postgresql", "mariadb", "mysql", "sqlite"])
def each(request: pytest.FixtureRequest) -> Place:
    """Return an empty database of each kind."""
    place: Place = request.getfixturevalue(f"{request.param}_place")
    return place


def build(tmp_path: Path, more: str = "") -> Path:
    """Write two revisions, of which none creates the tables of the models in env.py."""
    return tree(tmp_path, R1, R2, env=ENV.format(more=more))


async def start(place: Place, ini: Path, **settings: Any) -> None:
    """Start an instance until it is ready."""
    values = {"strategy": "advisory_lock", "bootstrap": "create_all", "baseline": None, **settings}
    await assembled(place.url, ini, **values).coordinator().become_ready()


def rows(place: Place) -> list[list[str]]:
    """Return revision, direction, outcome and note of each row of the history, oldest first."""
    found = place.rows(f"SELECT revision, direction, outcome, coalesce(note, '') FROM {HISTORY} ORDER BY id")
    return [list(row) for row in found]


async def test_an_empty_database_gets_the_tables_of_the_models(each: Place, tmp_path: Path) -> None:
    """The instance creates the tables instead of running the revisions, and records all of them with a note."""
    await start(each, build(tmp_path))
    assert [each.has(table) for table in ("a", "b", "by_revision")] == [True, True, False]
    note = "MIGRATION_BOOTSTRAP=create_all: the tables were created from the models"
    assert rows(each)[0] == ["r2", "upgrade", "applied", ""]
    assert sorted(rows(each)[1:]) == [["r1", "stamp", "stamped", note], ["r2", "stamp", "stamped", note]]
    assert each.rows("SELECT version_num FROM alembic_version") == [["r2"]]


async def test_a_database_that_is_not_empty_runs_the_revisions(sqlite_place: Place, tmp_path: Path) -> None:
    """Behind, or with tables that a downgrade left, the instance runs the revisions; with other tables it refuses."""
    ini = build(tmp_path)
    sqlite_place.rows("CREATE TABLE legacy (a integer)")
    with pytest.raises(SchemaRefused, match="legacy"):
        await start(sqlite_place, ini)
    sqlite_place.rows("DROP TABLE legacy")
    await start(sqlite_place, ini)
    revision(tmp_path, "r3", 'op.execute("CREATE TABLE by_r3 (a integer)")', after="r2")
    await start(sqlite_place, ini)
    assert (sqlite_place.has("by_r3"), sqlite_place.has("by_revision")) == (True, False)
    sqlite_place.rows("DELETE FROM alembic_version")
    sqlite_place.rows("DROP TABLE by_r3")
    await start(sqlite_place, ini)
    assert sqlite_place.has("by_revision")


async def test_a_named_revision_runs_the_revisions(sqlite_place: Place, tmp_path: Path) -> None:
    """`upgrade r1` on an empty database runs r1."""
    assembly = assembled(
        sqlite_place.url, build(tmp_path), strategy="advisory_lock", bootstrap="create_all", baseline=None
    )
    await assembly.coordinator().execute(MigrationRequest("upgrade", "r1"))
    assert sqlite_place.has("by_revision")


@pytest.mark.parametrize("models", ["run_env()", "run_env(sa.MetaData())"])
async def test_an_env_py_without_models_is_refused(sqlite_place: Place, tmp_path: Path, models: str) -> None:
    """env.py passes no metadata, or one without a table: the start is refused before anything runs."""
    with pytest.raises(ConfigurationError, match=r"MIGRATION_BOOTSTRAP=create_all needs the models.*To fix"):
        await start(sqlite_place, tree(tmp_path, R1, env=ENV.format(more="").replace("run_env(metadata)", models)))
    assert not sqlite_place.has(HISTORY)


@pytest.mark.parametrize("kind", ["postgresql", "sqlite"])
async def test_a_failed_creation_leaves_nothing(request: pytest.FixtureRequest, tmp_path: Path, kind: str) -> None:
    """A statement of the models fails: the tables are rolled back, and the failure is recorded for the others."""
    place: Place = request.getfixturevalue(f"{kind}_place")
    waiting = assembled(
        place.url, build(tmp_path, FAILS), "two", strategy="advisory_lock", bootstrap="create_all", baseline=None
    ).coordinator()
    what = r"creating the tables of the models \(MIGRATION_BOOTSTRAP=create_all\) failed and was rolled back: "
    with pytest.raises(RevisionFailed, match=what + r".*no_such_column.*To fix: correct the models, or unset"):
        await start(place, build(tmp_path, FAILS))
    assert [place.has(table) for table in ("a", "b")] == [False, False]
    assert [row[:3] for row in rows(place)] == [["r2", "upgrade", "failed"]]
    with pytest.raises(AlreadyFailed):
        await waiting.become_ready()
    await start(place, build(tmp_path), release="corrected")
    assert place.has("a")


async def test_a_type_that_exists_fails_the_creation(postgresql_place: PostgresPlace, tmp_path: Path) -> None:
    """A database without tables has a type of the models, left by a downgrade: the message names it and the remedy."""
    await fetch(postgresql_place.url, "CREATE TYPE kind AS ENUM ('x')")
    with pytest.raises(RevisionFailed, match=r'type "kind" already exists\. To fix: correct the models, or unset'):
        await start(postgresql_place, build(tmp_path))


async def test_an_unfinished_creation_on_mariadb_is_repaired(mariadb_place: Place, tmp_path: Path) -> None:
    """MariaDB keeps the tables of a failed creation: the next start is refused until they are dropped and repaired."""
    with pytest.raises(RevisionFailed, match="failed after it had committed a part of its work"):
        await start(mariadb_place, build(tmp_path, FAILS))
    ini = build(tmp_path)
    with pytest.raises(SchemaRefused, match="repair --rerun"):
        await start(mariadb_place, ini)
    mariadb_place.rows("DROP TABLE b, a")
    assembly = assembled(mariadb_place.url, ini, strategy="advisory_lock")
    await assembly.coordinator().execute(MigrationRequest("repair", "r2", repairs="r2"))
    await start(mariadb_place, ini, release="corrected")
    assert (mariadb_place.has("a"), mariadb_place.has("by_revision")) == (True, False)


async def test_the_tables_are_created_behind_a_pooler(
    postgresql_place: PostgresPlace, pgbouncer: StartPooler, tmp_path: Path
) -> None:
    """Behind a transaction pooler the tables are created in the lock's transaction; no revision is refused there."""
    await start(PostgresPlace(through(pgbouncer(), postgresql_place.url)), build(tmp_path))
    assert [postgresql_place.has(table) for table in ("a", "by_revision")] == [True, False]
    assert len(rows(postgresql_place)) == 3


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
async def test_the_tables_are_created_on_another_connection(
    postgresql_place: PostgresPlace, tmp_path: Path, driver: str
) -> None:
    """env.py opens a connection of its own: the tables are created on it."""
    own = OWN_CONNECTION.format(url=postgresql_place.url.replace("postgresql:", f"postgresql+{driver}:"))
    await start(postgresql_place, tree(tmp_path, R1, env=own))
    assert [postgresql_place.has(table) for table in ("a", "by_revision")] == [True, False]


async def test_each_schema_of_a_loop_gets_its_tables(postgresql_place: PostgresPlace, tmp_path: Path) -> None:
    """env.py loops over two schemas: each gets the tables and types, although the other's are on its search path."""
    await start(postgresql_place, tree(tmp_path, R1, env=LOOP))
    made = await fetch(postgresql_place.url, "SELECT schemaname FROM pg_tables WHERE tablename = 'a' ORDER BY 1")
    assert [row[0] for row in made] == ["one", "two"]


async def test_the_functions_surround_the_creation(each: Place, tmp_path: Path) -> None:
    """`before` is called before the tables are created, and `after` once for the head."""
    hooks = {"before": f"{__name__}:expect_nothing", "after": f"{__name__}:insert"}
    for _ in range(2):
        await start(each, build(tmp_path), **hooks)
    assert [row[1] for row in rows(each)] == ["before", "upgrade", "stamp", "stamp", "after"]
    assert each.rows("SELECT count(*) FROM a") in ([["1"]], [[1]])


def expect_nothing(connection: sa.Connection) -> None:
    """Assert, as the function `before`, that there is no table yet."""
    assert not sa.inspect(connection).has_table("a")


def insert(connection: sa.Connection) -> None:
    """Insert a row, as the function `after`."""
    connection.execute(sa.text("INSERT INTO a (id) VALUES (1)"))


async def test_a_retried_after_does_not_create_the_tables_again(postgresql_place: Place, tmp_path: Path) -> None:
    """`after` does not acquire a table lock at first: only it is called again, because the tables are committed."""
    CALLS.clear()
    await start(postgresql_place, build(tmp_path), after=f"{__name__}:contend_once")
    assert [row[1:3] for row in rows(postgresql_place)[-2:]] == [["after", "retried"], ["after", "applied"]]


CALLS: list[sa.Connection] = []


def contend_once(connection: sa.Connection) -> None:
    """Fail in the first call, as the function `after`, like a statement that waits too long for a table lock."""
    CALLS.append(connection)
    if len(CALLS) == 1:
        connection.execute(sa.text("DO $$ BEGIN RAISE 'busy' USING ERRCODE = '55P03'; END $$"))


async def test_several_heads_are_stamped_together(sqlite_place: Place, tmp_path: Path) -> None:
    """With MIGRATION_TARGET=heads each head has its row; a table of the package in the models is left alone."""
    ini = build(tmp_path, 'sa.Table("alembic_version", metadata, sa.Column("version_num", sa.Text))')
    revision(tmp_path, "r9", 'op.execute("CREATE TABLE by_r9 (a integer)")', after="r1")
    await start(sqlite_place, ini, target="heads")
    assert sorted(row[0] for row in sqlite_place.rows("SELECT version_num FROM alembic_version")) == ["r2", "r9"]
    assert not sqlite_place.has("by_r9")
