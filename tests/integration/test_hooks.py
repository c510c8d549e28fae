"""The functions `before` and `after` run under the lock: once for each head, each in a transaction with its row."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from fastapi import FastAPI
from sqlalchemy.ext.asyncio import AsyncConnection

from api.migrations.assembly import Assembly
from api.migrations.core.status import Tracker
from api.migrations.errors import ConfigurationError, MigrationError, RevisionFailed
from api.migrations.execution.hooks import Hooks
from api.migrations.startup_integration import lifespan_with_migrations
from tests.integration.served import settings
from tests.support.fakes import assembled, revision, tree
from tests.support.places import HISTORY, Place, PostgresPlace
from tests.support.pooler import StartPooler, through

OWN_CONNECTION = """
import asyncio
from alembic import context
from sqlalchemy.ext.asyncio import create_async_engine


def migrate(connection):
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()


async def main():
    engine = create_async_engine({url!r})
    async with engine.connect() as connection:
        await connection.run_sync(migrate)
    await engine.dispose()


asyncio.run(main())
"""
R1 = 'op.execute("CREATE TABLE seen (who varchar(20))")'
NOTE = "op.execute(\"INSERT INTO seen VALUES ('r2')\")"


@pytest.fixture(params=["postgresql", "mariadb", "sqlite"])
def each(request: pytest.FixtureRequest) -> Place:
    """Return an empty database of each kind."""
    place: Place = request.getfixturevalue(f"{request.param}_place")
    return place


def note(connection: sa.Connection) -> None:
    """Leave a mark, as a function `before` or `after`."""
    connection.execute(sa.text("INSERT INTO seen VALUES ('sync')"))


async def note_async(connection: AsyncConnection) -> None:
    """Leave a mark, as a coroutine function."""
    await connection.execute(sa.text("INSERT INTO seen VALUES ('async')"))


def roll_back(connection: sa.Connection) -> None:
    """Leave a mark and lose it."""
    note(connection)
    connection.rollback()


def fail(connection: sa.Connection) -> None:
    """Leave a mark and fail."""
    note(connection)
    raise ValueError("no good")


async def start(url: str, ini: Path, before: Callable[..., Any] | None, after: Callable[..., Any] | None) -> None:
    """Start an instance with these functions until it is ready."""
    values = settings(url, ini, strategy="advisory_lock")
    tracker = Tracker(instance="one")
    await Assembly.build(values, tracker, hooks=Hooks.of(before, after)).coordinator().become_ready()


def rows(place: Place) -> list[tuple[str, ...]]:
    """Return revision, direction and outcome of each row of the history, oldest first."""
    found = place.rows(f"SELECT revision, direction, outcome FROM {HISTORY} ORDER BY id")
    return [tuple(row) for row in found]


def seen(place: Place) -> list[str]:
    """Return the marks, sorted."""
    return sorted(row[0] for row in place.rows("SELECT who FROM seen"))


async def test_the_functions_run_once_for_each_head(each: Place, tmp_path: Path) -> None:
    """At r1 `after` runs once in two starts; `before` and `after` surround r2; each has a row in the history."""
    ini = tree(tmp_path, R1)
    await start(each.url, ini, None, note)
    await start(each.url, ini, None, note)
    assert rows(each) == [("r1", "upgrade", "applied"), ("r1", "after", "applied")]
    revision(tmp_path, "r2", NOTE, after="r1")
    await start(each.url, ini, note_async, note)
    assert rows(each)[2:] == [
        ("r2", "before", "applied"),
        ("r2", "upgrade", "applied"),
        ("r2", "after", "applied"),
    ]
    assert seen(each) == ["async", "r2", "sync", "sync"]


async def test_a_failed_after_is_rolled_back_and_runs_at_the_next_start(each: Place, tmp_path: Path) -> None:
    """`after` fails: its work is rolled back and recorded, the start fails; the command then calls it again."""
    ini = tree(tmp_path, R1)
    with pytest.raises(
        RevisionFailed, match=r"the function 'after' \(fail\) failed and was rolled back: ValueError: no good"
    ):
        await start(each.url, ini, None, fail)
    assert (rows(each)[-1], seen(each)) == (("r1", "after", "failed"), [])
    later = assembled(each.url, ini, strategy="advisory_lock", after=f"{__name__}:note_async")
    await later.coordinator(replace(later.policy, backs_off=False)).become_ready()
    assert (rows(each)[-1], seen(each)) == (("r1", "after", "applied"), ["async"])


async def test_a_database_at_head_without_after_is_not_ready(sqlite_place: Place, tmp_path: Path) -> None:
    """The instance was killed between the last revision and `after`: the next start calls it, then is ready."""
    ini = tree(tmp_path, R1)
    await start(sqlite_place.url, ini, None, None)
    await start(sqlite_place.url, ini, None, note)
    assert (rows(sqlite_place)[-1], seen(sqlite_place)) == (("r1", "after", "applied"), ["sync"])


async def test_after_may_not_end_its_transaction(sqlite_place: Place, tmp_path: Path) -> None:
    """`after` rolls back its own work: it has failed, and does not count as done."""
    with pytest.raises(RevisionFailed, match="it ended its own transaction"):
        await start(sqlite_place.url, tree(tmp_path, R1), None, roll_back)
    assert rows(sqlite_place)[-1] == ("r1", "after", "failed")


async def test_the_functions_run_beside_an_env_py_with_its_own_connection(
    postgresql_place: PostgresPlace, tmp_path: Path
) -> None:
    """The revisions run on the connection that env.py opens, and the functions on the session with the first lock."""
    own = OWN_CONNECTION.format(url=postgresql_place.url.replace("postgresql://", "postgresql+asyncpg://"))
    await start(postgresql_place.url, tree(tmp_path, R1, NOTE, env=own), None, note_async)
    assert (rows(postgresql_place)[-1], seen(postgresql_place)) == (("r2", "after", "applied"), ["async", "r2"])


async def test_the_lifespan_calls_its_functions(database_url: str, tmp_path: Path) -> None:
    """`lifespan_with_migrations(after=f)` calls f before the service's own lifespan starts."""
    marks: list[str] = []

    @asynccontextmanager
    async def own(app: FastAPI) -> AsyncIterator[None]:
        marks.append("lifespan")
        yield

    values = settings(database_url, tree(tmp_path, R1), startup_mode="block")
    ours = lifespan_with_migrations(
        settings=values, before=lambda _: marks.append("before"), after=lambda _: marks.append("after")
    )
    app = FastAPI(lifespan=ours.then(own))
    async with app.router.lifespan_context(app):
        assert marks == ["before", "after", "lifespan"]


async def test_a_failed_before_keeps_the_revisions_from_running(
    postgresql_place: PostgresPlace, tmp_path: Path
) -> None:
    """`before` fails: no revision runs, and the failure is recorded at the first pending revision."""
    ini = tree(tmp_path, R1, NOTE)
    with pytest.raises(MigrationError, match="the function 'before' "):
        await start(postgresql_place.url, ini, fail, None)
    assert rows(postgresql_place) == [("r1", "before", "failed")]


async def test_the_functions_run_behind_a_pooler(
    postgresql_place: PostgresPlace, pgbouncer: StartPooler, tmp_path: Path
) -> None:
    """Behind a transaction pooler revisions and functions are one transaction."""
    ini = tree(tmp_path, R1, NOTE)
    url = through(pgbouncer(), postgresql_place.url)
    with pytest.raises(RevisionFailed, match="the function 'after'"):
        await start(url, ini, None, fail)
    assert not postgresql_place.has("seen")
    other = Path(tmp_path / "other")
    await start(url, tree(other, R1, NOTE, 'op.execute("SELECT 1")'), None, note_async)
    assert seen(postgresql_place) == ["async", "r2"]


@pytest.mark.parametrize("path", ["nowhere:f", "os:nothing", "os", "os:sep"])
async def test_an_import_path_that_leads_nowhere_is_refused(sqlite_place: Place, tmp_path: Path, path: str) -> None:
    """The function cannot be imported: the start is refused by the setting's name, before anything runs."""
    assembly = assembled(sqlite_place.url, tree(tmp_path, R1), strategy="advisory_lock", after=path)
    with pytest.raises(ConfigurationError, match=f"MIGRATION_AFTER='{path}' cannot be used"):
        await assembly.coordinator().become_ready()
    assert not sqlite_place.has("alembic_version")
