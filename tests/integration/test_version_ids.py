"""Revision ids that the version table cannot hold: refused before the lock, unless the column is, or gets, wider."""

from pathlib import Path

import pytest

from api.migrations.core.protocols import MigrationRequest
from api.migrations.databases.backend import Verdict
from api.migrations.errors import ConfigurationError, RevisionFailed
from tests.integration.sql_runs import outcomes, run_request
from tests.integration.test_doctor import found
from tests.integration.test_history import history, run
from tests.support.fakes import THREE_LINES, assembled, revision, tree
from tests.support.places import HISTORY, MariaDBPlace, Place, SqlitePlace
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
    """A revision r1 that does what is given, and one with a long id."""
    ini = tree(folder, first, env=env)
    revision(folder, LONG, "pass", after="r1")
    return ini


async def refusal(url: str, ini: Path) -> str:
    """What a start says that must refuse."""
    with pytest.raises(ConfigurationError) as raised:
        await assembled(url, ini, strategy="advisory_lock").coordinator().become_ready()
    assert raised.value.exit_code == 2
    return str(raised.value)


async def test_a_long_id_is_refused_before_the_lock(database_url: str, tmp_path: Path) -> None:
    """With both ways out, on an empty database and on one that has the table; nothing was executed."""
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


async def test_the_table_that_the_message_creates_is_taken(database_url: str, tmp_path: Path) -> None:
    """The statement of the message, as it is, is a way out."""
    ini = long_tree(tmp_path)
    await fetch(database_url, (await refusal(database_url, ini)).rpartition(": ")[2])
    await assembled(database_url, ini).coordinator().become_ready()
    assert await history(database_url) == [("r1", "applied"), (LONG, "applied")]


@pytest.mark.parametrize(
    ("first", "env", "table"),
    [("pass", THREE_LINES, "text"), (WIDEN, THREE_LINES, "varchar(32)"), (WIDEN, THREE_LINES, None)],
    ids=["any length", "a revision widens it", "a revision widens the new one"],
)
async def test_a_wider_column_is_left_alone(
    database_url: str, tmp_path: Path, first: str, env: str, table: str | None
) -> None:
    """Whoever wrote the long id has seen to it."""
    if table is not None:
        await fetch(database_url, f"CREATE TABLE alembic_version (version_num {table} NOT NULL PRIMARY KEY)")
    await assembled(database_url, long_tree(tmp_path, first, env)).coordinator().become_ready()
    assert await history(database_url) == [("r1", "applied"), (LONG, "applied")]
    assert await fetch(database_url, "SELECT version_num FROM alembic_version") == [(LONG,)]


@pytest.mark.parametrize("where", ["env.py", "a module"])
async def test_an_env_that_widens_it_is_left_alone(database_url: str, tmp_path: Path, where: str) -> None:
    """Alembic lets an implementation of one's own say how the table looks; env.py, or what it imports, registers it."""
    from alembic.ddl.impl import _impls  # the registry is the process's, and the other tests need it unchanged

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


async def test_only_what_is_written_counts(database_url: str, tmp_path: Path) -> None:
    """An order that stops below the long id is carried out, back too; a stamp at it is refused."""
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


async def test_doctor_finds_it(database_url: str, tmp_path: Path) -> None:
    """As long as it is pending."""
    ini = long_tree(tmp_path)
    verdict, message = (await found(database_url, ini))["version_ids"]
    assert (verdict, "To fix: shorten the id" in message) == (Verdict.FAIL, True)
    await fetch(database_url, TABLE.format(64))
    assert (await found(database_url, ini))["version_ids"][0] is Verdict.OK


async def test_one_that_fails_all_the_same_is_explained(database_url: str, tmp_path: Path) -> None:
    """A revision that only mentions the column does not widen it: the server's refusal names the cause and ways out."""
    ini = long_tree(tmp_path, '"of version_num"')
    with pytest.raises(RevisionFailed) as raised:
        await run(database_url, ini)
    assert "value too long for type character varying(32)" in str(raised.value)
    assert f". Its id has {len(LONG)} characters. To fix: shorten the id" in str(raised.value)
    assert await history(database_url) == [("r1", "applied"), (LONG, "failed")]


async def test_mysql_refuses_it_before_the_lock(each_mysql_place: MariaDBPlace, tmp_path: Path) -> None:
    """Where it would have been half applied; the statements of the messages are ways out."""
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


async def test_mysql_refuses_a_character_outside_the_table_s_encoding(
    each_mysql_place: MariaDBPlace, tmp_path: Path
) -> None:
    """The version table is made in the character set of the database."""
    ini = tree(tmp_path, "pass")
    path = tmp_path / "versions" / "r1.py"
    path.write_text(path.read_text().replace("revision = 'r1'", "revision = 'первая'"))
    each_mysql_place.rows(f"ALTER DATABASE `{each_mysql_place.database}` CHARACTER SET latin1")
    assert "(its encoding is latin1)" in await refusal(each_mysql_place.url, ini)
    each_mysql_place.rows(f"ALTER DATABASE `{each_mysql_place.database}` CHARACTER SET utf8mb4")
    await run_request(each_mysql_place, ini)
    assert outcomes(each_mysql_place) == [("первая", "applied")]


async def test_sqlite_takes_any_length(sqlite_place: SqlitePlace, tmp_path: Path) -> None:
    """It enforces none."""
    place: Place = sqlite_place
    await run_request(place, long_tree(tmp_path))
    assert outcomes(place) == [("r1", "applied"), (LONG, "applied")]
