"""Statements that env.py executes before it configures Alembic: a check only reads, and the run executes them."""

from pathlib import Path

import pytest

from tests.support.fakes import assembled, tree
from tests.support.places import Place, PostgresPlace, applied

EACH = pytest.mark.parametrize("place", ["postgresql", "mariadb", "sqlite"], indirect=True)
EXECUTES = """
import sqlalchemy as sa
from alembic import context

connection = context.config.attributes["connection"]
assert connection.scalar(sa.text("SELECT 40 + 2")) == 42
connection.execute(sa.text("{statement}"))
connection.execute(sa.text("CREATE TABLE IF NOT EXISTS made_by_env (a int)"))
connection.commit()
context.configure(connection=connection)
with context.begin_transaction():
    context.run_migrations()
"""
HARMLESS = {
    "postgresql": "SET statement_timeout = 0",
    "mariadb": "SET SESSION sort_buffer_size = 262144",
    "sqlite": "PRAGMA foreign_keys = ON",
}


@EACH
async def test_statements_of_env_py_write_only_under_the_lock(place: Place, tmp_path: Path) -> None:
    """env.py creates a table: inspecting env.py creates nothing, and the run under the lock creates it."""
    env = EXECUTES.format(statement=HARMLESS[place.kind])
    ini = tree(tmp_path, "op.execute('INSERT INTO made_by_env VALUES (1)')", env=env)
    assembly = assembled(place.url, ini, strategy="advisory_lock")
    asked = await assembly.inspect(create_file=True)
    assert asked.further == ()
    assert not place.has("made_by_env")
    await assembly.coordinator().become_ready()
    assert place.rows("SELECT a FROM made_by_env") == [["1"]]
    assert applied(place) == ["r1"]


async def test_a_select_of_env_py_cannot_write_before_the_lock(database_url: str, tmp_path: Path) -> None:
    """env.py calls a function that writes: the inspection fails, because it uses a read-only transaction."""
    env = EXECUTES.format(statement="SELECT lo_create(0)")
    assembly = assembled(database_url, tree(tmp_path, "pass", env=env))
    with pytest.raises(Exception, match=r"env.py failed.*read-only.*env\.py:7"):
        await assembly.inspect()


OWN = """
import os
import sqlalchemy as sa
from alembic import context

engine = sa.create_engine({url!r}, poolclass=sa.NullPool)
with engine.connect() as connection:
    connection.execute(sa.text("{statement}"))
    connection.commit()
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()
"""


async def test_statements_on_a_connection_of_env_py_write_only_under_the_lock(
    postgresql_place: PostgresPlace, tmp_path: Path
) -> None:
    """env.py creates a table on its own connection: the inspection creates nothing, and the run creates it once."""
    place, url = postgresql_place, postgresql_place.url.replace("postgresql://", "postgresql+psycopg2://")
    ini = tree(tmp_path, "pass", env=OWN.format(url=url, statement="CREATE TABLE made_by_env (a int)"))
    assembly = assembled(place.url, ini)
    await assembly.inspect()
    assert not place.has("made_by_env")
    await assembly.coordinator().become_ready()
    assert place.has("made_by_env")
    assert applied(place) == ["r1"]


async def test_a_select_on_a_connection_of_env_py_cannot_write_before_the_lock(
    database_url: str, tmp_path: Path
) -> None:
    """env.py calls a function that writes on its own connection: the inspection fails in a read-only transaction."""
    url = database_url.replace("postgresql://", "postgresql+psycopg2://")
    ini = tree(tmp_path, "pass", env=OWN.format(url=url, statement="SELECT lo_create(0)"))
    with pytest.raises(Exception, match=r"env.py failed.*read-only.*env\.py:8"):
        await assembled(database_url, ini).inspect()
