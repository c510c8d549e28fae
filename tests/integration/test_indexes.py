"""INVALID indexes on PostgreSQL: they are found, reported with the statement that helps, and dropped on request."""

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
    """Create a table whose duplicate prevents a unique index, and another INVALID index outside the history."""
    for table in ("t", "other"):
        await fetch(database_url, f"CREATE TABLE {table} AS SELECT 1 AS a FROM generate_series(1, 2)")
    with pytest.raises(asyncpg.UniqueViolationError):
        await fetch(database_url, 'CREATE UNIQUE INDEX CONCURRENTLY "Not Ours" ON other (a)')
    return database_url


def building(folder: Path, extra: str = "") -> Path:
    """Create a history of one revision, which builds an index."""
    ini = tree(folder)
    revision(folder, "r1", BUILD, extra=extra)
    return ini


async def fail(url: str, ini: Path, **settings: Any) -> str:
    """Run until the duplicate fails the build; return the message."""
    with pytest.raises(RevisionFailed) as raised:
        await assembled(url, ini, **settings).coordinator().become_ready()
    return str(raised.value)


async def correct_the_data(url: str) -> None:
    """Remove the duplicate."""
    await fetch(url, "DELETE FROM t WHERE ctid = (SELECT min(ctid) FROM t)")


async def start(url: str, ini: Path, **settings: Any) -> Assembly:
    """Start an instance and assert that it becomes ready."""
    instance = assembled(url, ini, "later", **settings)
    await instance.coordinator().become_ready()
    assert instance.tracker.status.phase is Phase.READY
    return instance


async def test_a_failed_build_names_its_invalid_index(url: str, tmp_path: Path) -> None:
    """A build fails: the error and the next start name its INVALID index, the DROP statement and `repair --rerun`."""
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


async def test_an_invalid_index_is_dropped_before_the_rerun(url: str, tmp_path: Path) -> None:
    """With drop_invalid_indexes a rerun drops its own INVALID index, keeps another one, and reports that one."""
    ini = building(tmp_path, IDEMPOTENT)
    for _ in range(2):
        await fail(url, ini, drop_invalid_indexes=True, release=None)
        assert invalid_indexes(url) == ['"Not Ours"', "wanted"]
        revision(tmp_path, "r1", BUILD, extra=f"{IDEMPOTENT}# another release: tried at once\n")
    await correct_the_data(url)
    revision(tmp_path, "r1", BUILD, extra=f"{IDEMPOTENT}# and another\n")
    instance = await start(url, ini, drop_invalid_indexes=True)
    assert invalid_indexes(url) == ['"Not Ours"']
    assert instance.tracker.status.invalid_indexes == ('"Not Ours"',)


async def test_an_invalid_index_is_kept_and_reported_by_default(
    url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """By default the rerun keeps its INVALID index and is applied; log and status report the index once."""
    ini = building(tmp_path, IDEMPOTENT)
    await fail(url, ini)
    await correct_the_data(url)
    revision(tmp_path, "r1", BUILD, extra=f"{IDEMPOTENT}# another release: tried at once\n")
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        instance = await start(url, ini)
    assert invalid_indexes(url) == ['"Not Ours"', "wanted"]
    assert instance.tracker.status.invalid_indexes == ('"Not Ours"', "wanted")
    assert "DROP INDEX CONCURRENTLY wanted" in (instance.tracker.status.message or "")
    events = [getattr(record, "event", "") for record in caplog.records]
    assert events.count("invalid_indexes") == 1, "found before the run, and still there after it: said once"


async def test_a_repaired_revision_drops_its_invalid_index_and_runs_again(url: str, tmp_path: Path) -> None:
    """After `repair` and a corrected table the next start drops the INVALID index and builds it again."""
    ini = building(tmp_path)
    await fail(url, ini)
    await correct_the_data(url)
    await assembled(url, ini).coordinator().execute(MigrationRequest("repair", "r1"))
    revision(tmp_path, "r1", BUILD, extra="# another release: tried at once\n")
    await start(url, ini, drop_invalid_indexes=True)
    assert invalid_indexes(url) == ['"Not Ours"']


async def test_a_build_in_progress_is_not_reported_as_invalid(url: str, tmp_path: Path) -> None:
    """An index is INVALID until its build is done: meanwhile `status` and a waiter do not report it."""
    ini = building(tmp_path)
    session = assembled(url, ini).session()
    await correct_the_data(url)
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
