"""What one look at the server tells about everybody who has to do with the lock."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

from api.migrations.core.lock_key import LockKey
from api.migrations.core.status import LockStatus
from api.migrations.databases.postgres.lock_status import lock_status
from tests.support.fakes import FOREVER_SECONDS, assembled, eventually, in_the_way, tree
from tests.support.servers import Server, fetch

KEY = LockKey.derive("fastapi", "alembic_version", None)
ROLE = f"looker_{os.getpid()}"
# each row's entry takes about as long to compute as a disk would to read
SLOW_ROWS = """
    CREATE FUNCTION slow(a int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS
    'BEGIN PERFORM pg_sleep(0.004); RETURN a; END'
"""
BUILD = 'with op.get_context().autocommit_block():\n    op.execute("CREATE INDEX CONCURRENTLY i ON t ({})")'
BUILDING = "SELECT count(*) FROM pg_stat_progress_create_index WHERE phase LIKE '{}%'"


async def look(url: str) -> LockStatus:
    """One look, on a connection of its own."""
    connection = await asyncpg.connect(url)
    try:
        return await lock_status(KEY, connection)
    finally:
        await connection.close()


@asynccontextmanager
async def migrating(url: str, ini: Path) -> AsyncIterator[None]:
    """An instance that runs the revisions; at the end it must be ready."""
    task = asyncio.create_task(assembled(url, ini).coordinator().become_ready())
    yield
    await asyncio.wait_for(task, FOREVER_SECONDS)


@pytest.fixture
def plain_role(server: Server, database_url: str) -> Iterator[str]:
    """A role that has nothing to do with the one that migrates."""
    server.execute(f"CREATE ROLE {ROLE} LOGIN PASSWORD 'secret'")
    yield server.url(urlsplit(database_url).path[1:], user=ROLE, password="secret")
    server.execute(f"DROP ROLE {ROLE}")


async def test_nobody_is_there(database_url: str) -> None:
    """An empty look is no error."""
    assert await look(database_url) == LockStatus()
    assert str(LockStatus()) == "no session holds the lock"


async def test_a_build_that_waits_for_a_transaction(database_url: str, plain_role: str, tmp_path: Path) -> None:
    """Its kind and phase, and the session that must end; to another role with a GRANT only, which is told."""
    await fetch(database_url, "CREATE TABLE t (a int)")
    write = in_the_way(database_url, "INSERT INTO t VALUES (1)", "nightly-report")
    async with write as blocker, migrating(database_url, tree(tmp_path, BUILD.format("a"))):
        await eventually(database_url, BUILDING.format("waiting for writers"), "a build that waits")
        seen, other = await look(database_url), await look(plain_role)
        await fetch(database_url, f"GRANT pg_read_all_stats TO {ROLE}")
        granted = await look(plain_role)
        pid = blocker.get_server_pid()
        await blocker.close()
    assert seen.statement is not None
    assert (seen.statement.kind, seen.statement.phase) == (
        "CREATE INDEX CONCURRENTLY",
        "waiting for writers before build",
    )
    (way,) = seen.blocked_by
    assert (way.pid, way.application, way.state) == (pid, "nightly-report", "idle in transaction")
    assert "blocks the migration until its transaction ends" in str(seen)
    assert seen.grant is None
    assert other.holder is not None
    assert (other.statement, other.grant) == (None, f"GRANT pg_read_all_stats TO {ROLE}")
    assert [(each.pid, each.application, each.state) for each in other.blocked_by] == [(pid, "nightly-report", None)]
    assert (granted.grant, granted.statement and granted.statement.kind) == (None, "CREATE INDEX CONCURRENTLY")


async def test_a_build_gets_on(database_url: str, tmp_path: Path) -> None:
    """The percentage of the phase moves, and never backwards once the server has begun to count."""
    await fetch(database_url, SLOW_ROWS)
    await fetch(database_url, "CREATE TABLE t AS SELECT a, repeat('x', 7000) AS b FROM generate_series(1, 600) a")
    percents: list[float] = []
    async with migrating(database_url, tree(tmp_path, BUILD.format("slow(a)"))):
        await eventually(database_url, BUILDING.format("building index"), "a build at work")
        while (seen := await look(database_url)).statement and seen.statement.phase == "building index: scanning table":
            percents.append(seen.statement.percent or 0)
    # for a moment PostgreSQL says that it is through with all blocks, and then starts with the first
    moving = percents[percents.index(min(percents)) :]
    assert moving == sorted(moving)
    assert len(set(moving)) > 2
    assert 0 <= moving[0] < moving[-1] <= 100
