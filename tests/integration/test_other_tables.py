"""A setting that names a table of the application is refused, on every database, before anything is written."""

import argparse
from pathlib import Path
from typing import Any

import pytest

from api.migrations.cli import commands
from api.migrations.cli.doctor import examine
from api.migrations.cli.each_scope import Command
from api.migrations.cli.results import SchemaReport
from api.migrations.core.protocols import MigrationRequest
from api.migrations.core.schema import SchemaState
from api.migrations.databases.backend import Verdict
from api.migrations.errors import ConfigurationError
from tests.support.fakes import assembled, tree
from tests.support.fleet import alembic, migrate
from tests.support.places import HISTORY, Place, versions

GROUND = 'op.execute("CREATE TABLE marks (revision varchar(40))")'
OLDEST = (
    "id INTEGER PRIMARY KEY{auto}, revision VARCHAR(255) NOT NULL, parents VARCHAR(99) NOT NULL, "
    "direction VARCHAR(16) NOT NULL, outcome VARCHAR(16) NOT NULL, instance VARCHAR(255) NOT NULL, "
    "\"release\" VARCHAR(255), database_user VARCHAR(255) NOT NULL DEFAULT '', "
    "started_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP, finished_at TIMESTAMP NULL, error VARCHAR(999)"
)
AUTO = {
    "postgresql": " GENERATED ALWAYS AS IDENTITY",
    "mariadb": " AUTO_INCREMENT",
    "mysql": " AUTO_INCREMENT",
    "sqlite": "",
}
MYSQL = {"mariadb", "mysql"}


@pytest.fixture(params=["postgresql", "mariadb", "mysql", "sqlite"])
def place(request: pytest.FixtureRequest) -> Place:
    """Return a database with tables of the application and a view."""
    found: Place = request.getfixturevalue(f"{request.param}_place")
    found.rows("CREATE TABLE accounts (id integer PRIMARY KEY, owner varchar(40))")
    found.rows("INSERT INTO accounts VALUES (1, 'Ada')")
    found.rows("CREATE VIEW numbers AS SELECT owner AS version_num FROM accounts")
    found.rows("CREATE TABLE papers (id integer PRIMARY KEY, version_num varchar(40))")
    return found


def columns(place: Place, table: str) -> int:
    """Return how many columns a table has."""
    if place.kind == "sqlite":
        return len(place.rows(f"PRAGMA table_info({table})"))
    where = "table_schema = database()" if place.kind in MYSQL else "table_schema = 'public'"
    [[count]] = place.rows(f"SELECT count(*) FROM information_schema.columns WHERE {where} AND table_name = '{table}'")
    return int(count)


def built(place: Place, folder: Path, *bodies: str, **settings: Any) -> Any:
    """Return the assembly of an instance."""
    return assembled(place.url, tree(folder, *(bodies or (GROUND,))), strategy="advisory_lock", **settings)


def assert_unchanged(place: Place) -> None:
    """Assert that nothing was written and the lock is free."""
    assert place.rows("SELECT * FROM accounts") == [["1", "Ada"]]
    assert (columns(place, "accounts"), columns(place, "papers")) == (2, 2)
    assert [name for name in ("marks", "alembic_version", HISTORY) if place.has(name)] == []
    assert place.lock_is_free()


CASES = {
    "history": ({"history_table": "accounts"}, "MIGRATION_HISTORY_TABLE", "has no column database_user, direction"),
    "version": ({"version_table": "accounts"}, "MIGRATION_VERSION_TABLE", "has no column version_num"),
    "wider version": ({"version_table": "papers"}, "MIGRATION_VERSION_TABLE", "has the columns id besides version_num"),
    "a view": ({"version_table": "numbers"}, "MIGRATION_VERSION_TABLE", "is a view or a foreign table"),
    "history, a view": ({"history_table": "numbers"}, "MIGRATION_HISTORY_TABLE", "is a view or a foreign table"),
}


@pytest.mark.parametrize(("settings", "setting", "words"), CASES.values(), ids=CASES)
async def test_a_start_refuses_a_table_of_the_application(
    place: Place, tmp_path: Path, settings: dict[str, str], setting: str, words: str
) -> None:
    """A setting names the application's table: start and `doctor` name the table, the reason and the setting."""
    assembly = built(place, tmp_path, **settings)
    with pytest.raises(ConfigurationError) as raised:
        await assembly.coordinator().become_ready()
    [table] = settings.values()
    assert all(word in str(raised.value) for word in (table, setting, words, "It was not changed")), raised.value
    assert_unchanged(place)
    [finding] = [each for each in await examine(assembly) if each.check == "schema"]
    assert (finding.verdict, setting in finding.message) == (Verdict.FAIL, True), finding


@pytest.mark.parametrize(
    ("settings", "reading"),
    [
        ({"history_table": "accounts"}, [commands.check, commands.status, commands.history, commands.repair]),
        ({"version_table": "accounts"}, [commands.check, commands.current, commands.status]),
    ],
    ids=["history", "version"],
)
async def test_no_command_reads_a_table_of_the_application(
    place: Place, tmp_path: Path, settings: dict[str, str], reading: list[Command]
) -> None:
    """A setting names the application's table: each reading command refuses it."""
    assembly = built(place, tmp_path, **settings)
    for command in reading:
        with pytest.raises(ConfigurationError, match="accounts cannot be the"):
            await command(assembly, argparse.Namespace(limit=50, rerun=True, for_rollback=None))
    assert_unchanged(place)


async def test_a_table_of_the_application_is_refused_at_head(place: Place, tmp_path: Path) -> None:
    """The database is at head and the history setting names the application's table: the start is refused."""
    await built(place, tmp_path).coordinator().become_ready()
    with pytest.raises(ConfigurationError, match="accounts cannot be the history table"):
        await built(place, tmp_path, history_table="accounts").coordinator().become_ready()
    assert columns(place, "accounts") == 2


async def test_a_view_of_the_history_is_refused_under_the_lock(place: Place, tmp_path: Path) -> None:
    """A view of the history table reads like it: the check under the lock refuses it, and no revision runs."""
    await built(place, tmp_path).coordinator().become_ready()
    place.rows(f"CREATE VIEW told AS SELECT * FROM {HISTORY}")
    with pytest.raises(ConfigurationError, match="told cannot be the history table: it is a view"):
        await built(place, tmp_path, GROUND, "pass", history_table="told").coordinator().become_ready()
    assert versions(place) == ["r1"]
    assert place.lock_is_free()


async def test_a_version_table_with_a_further_column_is_accepted(place: Place, tmp_path: Path) -> None:
    """Operators have added a column to Alembic's table: it is still accepted and read."""
    await built(place, tmp_path).coordinator().become_ready()
    place.rows("ALTER TABLE alembic_version ADD COLUMN remark varchar(40)")
    await built(place, tmp_path, GROUND, "pass").coordinator().become_ready()
    assert versions(place) == ["r2"]
    older = built(place, tmp_path / "older", GROUND)
    report = await commands.current(older, argparse.Namespace())
    assert isinstance(report, SchemaReport)
    assert report.state is SchemaState.AHEAD


async def test_the_oldest_history_table_is_accepted_and_extended(place: Place, tmp_path: Path) -> None:
    """The history table is that of the first release: a run accepts it and adds the missing columns."""
    oldest = OLDEST.format(auto=AUTO[place.kind])
    place.rows(f"CREATE TABLE {HISTORY} ({oldest.replace(chr(34), '`') if place.kind in MYSQL else oldest})")
    await built(place, tmp_path).coordinator().become_ready()
    assert place.rows(f"SELECT revision, outcome, note FROM {HISTORY}") == [["r1", "applied", "NULL"]]


async def test_a_foreign_table_is_refused(postgresql_place: Place, tmp_path: Path) -> None:
    """The history setting names a foreign table, whose rows are on another server: it is refused."""
    postgresql_place.rows("CREATE FOREIGN DATA WRAPPER nothing")
    postgresql_place.rows("CREATE SERVER elsewhere FOREIGN DATA WRAPPER nothing")
    postgresql_place.rows("CREATE FOREIGN TABLE far (id integer) SERVER elsewhere")
    with pytest.raises(ConfigurationError, match="far cannot be the history table: it is a view or a foreign table"):
        await (
            built(postgresql_place, tmp_path, history_table="far")
            .operator_coordinator()
            .execute(MigrationRequest("stamp", "r1"))
        )


ENV = "from api.migrations.environment import run_env\n\nrun_env(version_table={!r})\n"


async def test_the_table_that_env_py_names_is_checked(place: Place, tmp_path: Path) -> None:
    """env.py names its own version table: that one is checked, and a table with the default name is ignored."""
    place.rows("CREATE TABLE alembic_version (id integer PRIMARY KEY, version_num varchar(40))")
    ini = tree(tmp_path, GROUND, env=ENV.format("shop_version"))
    await assembled(place.url, ini, strategy="advisory_lock").coordinator().become_ready()
    assert place.rows("SELECT version_num FROM shop_version") == [["r1"]]
    assert place.rows("SELECT * FROM alembic_version") == []
    ini = tree(tmp_path, GROUND, env=ENV.format("accounts"))
    with pytest.raises(ConfigurationError, match=r"accounts cannot be the version table: .* version_table in env\.py"):
        await assembled(place.url, ini, strategy="advisory_lock").coordinator().become_ready()
    assert columns(place, "accounts") == 2


async def test_a_table_without_columns_is_refused(postgresql_place: Place, tmp_path: Path) -> None:
    """The history setting names a PostgreSQL table without columns: it is refused as an existing table."""
    postgresql_place.rows("CREATE TABLE bare ()")
    with pytest.raises(ConfigurationError, match="bare cannot be the history table: it has no column"):
        await built(postgresql_place, tmp_path, history_table="bare").coordinator().become_ready()
    assert columns(postgresql_place, "bare") == 0


def test_manual_commands_refuse_a_table_of_the_application(postgresql_place: Place, tmp_path: Path) -> None:
    """A setting names the application's table: `./migrate.sh` exits with 2, `alembic` with 1 and the same line."""
    postgresql_place.rows("CREATE TABLE accounts (id integer PRIMARY KEY, owner varchar(40))")
    ini = tree(tmp_path, GROUND)
    code, output = migrate("upgrade", url=postgresql_place.url, ini=ini, MIGRATION_HISTORY_TABLE="accounts")
    assert (code, len(output.splitlines())) == (2, 1), output
    for command, table in ((("upgrade", "head"), "HISTORY"), (("current",), "VERSION"), (("check",), "HISTORY")):
        named = {f"MIGRATION_{table}_TABLE": "accounts"}
        code, output = alembic(*command, url=postgresql_place.url, ini=ini, **named)
        assert (code, "accounts cannot be the" in output) == (1, True), output
    assert columns(postgresql_place, "accounts") == 2
    assert not postgresql_place.has("alembic_version")
