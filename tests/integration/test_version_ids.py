"""Revision ids that the version table cannot hold are refused before the lock, unless the column is made wider."""

from pathlib import Path

import pytest

from api.migrations.core.protocols import MigrationRequest
from api.migrations.databases.backend import Verdict
from api.migrations.errors import ConfigurationError, RevisionFailed
from tests.integration.sql_runs import outcomes, run_request
from tests.support.doctor_findings import found
from tests.support.fakes import THREE_LINES, assembled, revision, tree
from tests.support.places import HISTORY, MariaDBPlace, Place, SqlitePlace
from tests.support.postgres_runs import history, run
from tests.support.servers import fetch

LONG = "r2_add_the_table_of_accounts_and_its_indexes"
TABLE = "CREATE TABLE alembic_version (version_num varchar({}) NOT NULL PRIMARY KEY)"
WIDEN = "op.alter_column('alembic_version', 'version_num', type_=sa.String(128), existing_nullable=False)"
IMPL = """
import sqlalchemy as sa
from alembic.ddl.postgresql import PostgresqlImpl

class Wide(PostgresqlImpl):
    __dialect__ = "postgresql"

    def version_table_impl(self, **options):
        table = super().version_table_impl(**options)
        table.c.version_num.type = sa.String(128)
        return table

"""


def long_tree(folder: Path, first: str = "pass", env: str = THREE_LINES) -> Path:
    """Create a history of r1, with a given body, and a revision with a long id."""
    ini = tree(folder, first, env=env)
    revision(folder, LONG, "pass", after="r1")
    return ini


async def refusal(url: str, ini: Path) -> str:
    """Start an instance that must be refused with exit code 2, and return the message."""
    with pytest.raises(ConfigurationError) as raised:
        await assembled(url, ini, strategy="advisory_lock").coordinator().become_ready()
    assert raised.value.exit_code == 2
    return str(raised.value)


async def test_a_long_id_is_refused_before_the_lock(database_url: str, tmp_path: Path) -> None:
    """A revision's id is too long for the version table: the start is refused, and the printed ALTER TABLE helps."""
    ini = long_tree(tmp_path)
    said = await refusal(database_url, ini)
    assert said.startswith(f"revision id {LONG} has {len(LONG)} characters, and alembic_version.version_num will be")
    assert "CREATE TABLE alembic_version (version_num varchar(128) NOT NULL PRIMARY KEY);" in said
    await fetch(database_url, TABLE.format(32))
    said = await refusal(database_url, ini)
    assert "To fix: shorten the id" in said
    assert await fetch(database_url, f"SELECT to_regclass('{HISTORY}')") == [(None,)]
    await fetch(database_url, said.rpartition(": ")[2])
    await run(database_url, ini)
    assert await history(database_url) == [("r1", "applied"), (LONG, "applied")]


async def test_the_create_table_of_the_message_is_sufficient(database_url: str, tmp_path: Path) -> None:
    """An operator runs the printed CREATE TABLE: the next start applies the long id."""
    ini = long_tree(tmp_path)
    await fetch(database_url, (await refusal(database_url, ini)).rpartition(": ")[2])
    await assembled(database_url, ini).coordinator().become_ready()
    assert await history(database_url) == [("r1", "applied"), (LONG, "applied")]


@pytest.mark.parametrize(
    ("first", "env", "table"),
    [("pass", THREE_LINES, "text"), (WIDEN, THREE_LINES, "varchar(32)"), (WIDEN, THREE_LINES, None)],
    ids=["any length", "a revision widens it", "a revision widens the new one"],
)
async def test_a_wider_column_accepts_a_long_id(
    database_url: str, tmp_path: Path, first: str, env: str, table: str | None
) -> None:
    """The column is wide enough, or a revision widens it: the long id is applied."""
    if table is not None:
        await fetch(database_url, f"CREATE TABLE alembic_version (version_num {table} NOT NULL PRIMARY KEY)")
    await assembled(database_url, long_tree(tmp_path, first, env)).coordinator().become_ready()
    assert await history(database_url) == [("r1", "applied"), (LONG, "applied")]
    assert await fetch(database_url, "SELECT version_num FROM alembic_version") == [(LONG,)]


@pytest.mark.parametrize("where", ["env.py", "a module"])
async def test_an_env_py_that_widens_the_column_is_accepted(database_url: str, tmp_path: Path, where: str) -> None:
    """env.py or its import registers an Alembic implementation with a wider column: the long id is applied."""
    from alembic.ddl.impl import _impls  # the registry is global, so the test restores it

    (tmp_path / "impl.py").write_text(IMPL)
    imported = f"import runpy\n\nrunpy.run_path({str(tmp_path / 'impl.py')!r})\n"
    before = dict(_impls)
    try:
        env = (IMPL if where == "env.py" else imported) + THREE_LINES
        await assembled(database_url, long_tree(tmp_path, env=env)).coordinator().become_ready()
    finally:
        _impls.clear()
        _impls.update(before)
    assert await history(database_url) == [("r1", "applied"), (LONG, "applied")]


async def test_only_ids_that_a_request_writes_are_checked(database_url: str, tmp_path: Path) -> None:
    """A request ends before the long id: it runs; a stamp at the long id is refused."""
    ini = long_tree(tmp_path)
    for order in (
        MigrationRequest("upgrade", "r1"),
        MigrationRequest("downgrade", "base"),
        MigrationRequest("stamp", "r1"),
    ):
        await assembled(database_url, ini).operator_coordinator().execute(order)
    with pytest.raises(ConfigurationError, match=f"revision id {LONG}"):
        await assembled(database_url, ini).operator_coordinator().execute(MigrationRequest("stamp", "head"))
    assert await fetch(database_url, "SELECT version_num FROM alembic_version") == [("r1",)]


async def test_doctor_fails_on_a_pending_long_id(database_url: str, tmp_path: Path) -> None:
    """The long id is pending: `doctor` fails that check until the column is wider."""
    ini = long_tree(tmp_path)
    verdict, message = (await found(database_url, ini))["version_ids"]
    assert (verdict, "To fix: shorten the id" in message) == (Verdict.FAIL, True)
    await fetch(database_url, TABLE.format(64))
    assert (await found(database_url, ini))["version_ids"][0] is Verdict.OK


async def test_a_long_id_that_the_server_refuses_is_explained(database_url: str, tmp_path: Path) -> None:
    """A revision only mentions the column: the server refuses the id, and the error names cause and remedy."""
    ini = long_tree(tmp_path, '"of version_num"')
    with pytest.raises(RevisionFailed) as raised:
        await run(database_url, ini)
    assert "value too long for type character varying(32)" in str(raised.value)
    assert f". Its id has {len(LONG)} characters. To fix: shorten the id" in str(raised.value)
    assert await history(database_url) == [("r1", "applied"), (LONG, "failed")]


async def test_a_long_id_is_refused_before_the_lock_on_mysql(each_mysql_place: MariaDBPlace, tmp_path: Path) -> None:
    """A long id on MariaDB or MySQL is refused before DDL can half apply it, and the printed ALTER TABLE helps."""
    ini = long_tree(tmp_path)
    said = await refusal(each_mysql_place.url, ini)
    assert "will be created by Alembic and hold 32" in said
    assert not each_mysql_place.has(HISTORY)
    each_mysql_place.rows(TABLE.format(32))
    said = await refusal(each_mysql_place.url, ini)
    assert "and alembic_version.version_num holds 32. To fix: shorten the id" in said
    each_mysql_place.rows(said.rpartition(": ")[2])
    await run_request(each_mysql_place, ini)
    assert outcomes(each_mysql_place) == [("r1", "applied"), (LONG, "applied")]


async def test_a_character_outside_the_encoding_is_refused_on_mysql(
    each_mysql_place: MariaDBPlace, tmp_path: Path
) -> None:
    """An id has a letter that the database's character set lacks: the start is refused until the set is changed."""
    ini = tree(tmp_path, "pass")
    path = tmp_path / "versions" / "r1.py"
    path.write_text(path.read_text().replace("revision = 'r1'", "revision = 'первая'"))
    each_mysql_place.rows(f"ALTER DATABASE `{each_mysql_place.database}` CHARACTER SET latin1")
    assert "(its encoding is latin1)" in await refusal(each_mysql_place.url, ini)
    each_mysql_place.rows(f"ALTER DATABASE `{each_mysql_place.database}` CHARACTER SET utf8mb4")
    await run_request(each_mysql_place, ini)
    assert outcomes(each_mysql_place) == [("первая", "applied")]


async def test_sqlite_accepts_an_id_of_any_length(sqlite_place: SqlitePlace, tmp_path: Path) -> None:
    """SQLite enforces no column length: the long id is applied."""
    place: Place = sqlite_place
    await run_request(place, long_tree(tmp_path))
    assert outcomes(place) == [("r1", "applied"), (LONG, "applied")]
