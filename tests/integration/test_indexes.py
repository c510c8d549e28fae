"""INVALID indexes on a real server: found, named with the way out, and dropped where that is wanted."""

import asyncio
import logging
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from api.migrations.assembly import Assembly
from api.migrations.core.protocols import MigrationRequest
from api.migrations.core.status import Phase
from api.migrations.errors import RevisionFailed, SchemaRefused
from tests.support.evidence import invalid_indexes
from tests.support.fakes import assembled, eventually, revision, tree
from tests.support.servers import fetch

BUILD = """
with op.get_context().autocommit_block():
    op.execute("CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS wanted ON t (a)")
"""
IDEMPOTENT = "idempotent = True\n"
NAMED = "INVALID wanted: a concurrent build did not finish. To fix: DROP INDEX CONCURRENTLY wanted;"


@pytest.fixture
async def url(database_url: str) -> str:
    """A table with a duplicate, on which no unique index can be built, and an INVALID one of somebody else's."""
    for table in ("t", "other"):
        await fetch(database_url, f"CREATE TABLE {table} AS SELECT 1 AS a FROM generate_series(1, 2)")
    with pytest.raises(asyncpg.UniqueViolationError):
        await fetch(database_url, 'CREATE UNIQUE INDEX CONCURRENTLY "Not Ours" ON other (a)')
    return database_url


def building(folder: Path, extra: str = "") -> Path:
    """A history of one revision, which builds an index."""
    ini = tree(folder)
    revision(folder, "r1", BUILD, extra=extra)
    return ini


async def fail(url: str, ini: Path, **settings: Any) -> str:
    """Run into the duplicate; returns what the run said."""
    with pytest.raises(RevisionFailed) as raised:
        await assembled(url, ini, **settings).coordinator().become_ready()
    return str(raised.value)


async def mend_the_data(url: str) -> None:
    """Remove the duplicate."""
    await fetch(url, "DELETE FROM t WHERE ctid = (SELECT min(ctid) FROM t)")


async def start(url: str, ini: Path, **settings: Any) -> Assembly:
    """An instance that becomes ready."""
    instance = assembled(url, ini, "later", **settings)
    await instance.coordinator().become_ready()
    assert instance.tracker.status.phase is Phase.READY
    return instance


async def test_the_failure_names_the_new_one(url: str, tmp_path: Path) -> None:
    """With the statement that removes it and both ways to go on; the next start says the same."""
    ini = building(tmp_path)
    message = await fail(url, ini)
    assert "committed a part of its work" in message
    assert "last statement: CREATE UNIQUE INDEX CONCURRENTLY" in message
    assert NAMED in message
    assert "--rerun" in message
    with pytest.raises(SchemaRefused) as raised:
        await assembled(url, ini, "two").coordinator().become_ready()
    assert "did not finish (last statement: CREATE UNIQUE INDEX CONCURRENTLY)" in str(raised.value)
    assert NAMED in str(raised.value)
    assert "Not Ours" not in message + str(raised.value)


async def test_what_was_left_behind_is_dropped_where_that_is_wanted(url: str, tmp_path: Path) -> None:
    """Before it runs again; without that IF NOT EXISTS would keep it. Somebody else's stays, and is reported."""
    ini = building(tmp_path, IDEMPOTENT)
    for _ in range(2):
        await fail(url, ini, drop_invalid_indexes=True, release=None)
        assert invalid_indexes(url) == ['"Not Ours"', "wanted"]
        revision(tmp_path, "r1", BUILD, extra=f"{IDEMPOTENT}# another release: tried at once\n")
    await mend_the_data(url)
    revision(tmp_path, "r1", BUILD, extra=f"{IDEMPOTENT}# and another\n")
    instance = await start(url, ini, drop_invalid_indexes=True)
    assert invalid_indexes(url) == ['"Not Ours"']
    assert instance.tracker.status.invalid_indexes == ('"Not Ours"',)


async def test_nothing_is_dropped_unless_it_is_wanted(
    url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The revision is applied with an INVALID index, and log and status say so."""
    ini = building(tmp_path, IDEMPOTENT)
    await fail(url, ini)
    await mend_the_data(url)
    revision(tmp_path, "r1", BUILD, extra=f"{IDEMPOTENT}# another release: tried at once\n")
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        instance = await start(url, ini)
    assert invalid_indexes(url) == ['"Not Ours"', "wanted"]
    assert instance.tracker.status.invalid_indexes == ('"Not Ours"', "wanted")
    assert "DROP INDEX CONCURRENTLY wanted" in (instance.tracker.status.message or "")
    events = [getattr(record, "event", "") for record in caplog.records]
    assert events.count("invalid_indexes") == 1, "found before the run, and still there after it: said once"


async def test_a_person_repairs_and_it_runs_again(url: str, tmp_path: Path) -> None:
    """`repair --rerun` and an upgrade; what the first try left is dropped before the second."""
    ini = building(tmp_path)
    await fail(url, ini)
    await mend_the_data(url)
    await assembled(url, ini).coordinator().execute(MigrationRequest("repair", "r1"))
    revision(tmp_path, "r1", BUILD, extra="# another release: tried at once\n")
    await start(url, ini, drop_invalid_indexes=True)
    assert invalid_indexes(url) == ['"Not Ours"']


async def test_a_build_in_progress_is_not_taken_for_a_broken_one(url: str, tmp_path: Path) -> None:
    """It is INVALID too until it is done; `status` and a waiting instance must not tell anybody to drop it."""
    ini = building(tmp_path)
    session = assembled(url, ini).session()
    await mend_the_data(url)
    old = await asyncpg.connect(url)
    transaction = old.transaction()
    await transaction.start()
    await old.execute("INSERT INTO t VALUES (5)")
    build = asyncio.create_task(start(url, ini))
    waits = "SELECT count(*) FROM pg_stat_progress_create_index WHERE phase LIKE 'waiting for%'"
    await eventually(url, waits, "a build that waits for an old transaction")
    assert invalid_indexes(url) == ['"Not Ours"', "wanted"]
    await session.open()
    assert await session.store.invalid_indexes() == ['"Not Ours"']
    (half,) = (await session.store.observe()).half_applied
    assert (half.revision, half.statement) == ("r1", "CREATE UNIQUE INDEX CONCURRENTLY")
    assert half.invalid_indexes == ()
    await session.close()
    await transaction.commit()
    await old.close()
    await build
    assert invalid_indexes(url) == ['"Not Ours"']
