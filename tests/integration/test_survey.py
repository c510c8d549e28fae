"""The lock status on PostgreSQL: lock holder, its statement with progress, and the sessions that block it."""

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
# each index entry takes 4 ms, about as long as a read from disk
SLOW_ROWS = """
    CREATE FUNCTION slow(a int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS
    'BEGIN PERFORM pg_sleep(0.004); RETURN a; END'
"""
BUILD = 'with op.get_context().autocommit_block():\n    op.execute("CREATE INDEX CONCURRENTLY i ON t ({})")'
BUILDING = "SELECT count(*) FROM pg_stat_progress_create_index WHERE phase LIKE '{}%'"


async def status_for(url: str) -> LockStatus:
    """Return the lock status on a connection of its own."""
    connection = await asyncpg.connect(url)
    try:
        return await lock_status(KEY, connection)
    finally:
        await connection.close()


@asynccontextmanager
async def migrating(url: str, ini: Path) -> AsyncIterator[None]:
    """Start an instance, and assert after the block that it becomes ready."""
    task = asyncio.create_task(assembled(url, ini).coordinator().become_ready())
    yield
    await asyncio.wait_for(task, FOREVER_SECONDS)


@pytest.fixture
def plain_role(server: Server, database_url: str) -> Iterator[str]:
    """Yield the URL of a role without rights on the migration."""
    server.execute(f"CREATE ROLE {ROLE} LOGIN PASSWORD 'secret'")
    yield server.url(urlsplit(database_url).path[1:], user=ROLE, password="secret")
    server.execute(f"DROP ROLE {ROLE}")


async def test_lock_status_is_empty_without_a_lock_holder(database_url: str) -> None:
    """No session holds the lock: the status is empty and raises no error."""
    assert await status_for(database_url) == LockStatus()
    assert str(LockStatus()) == "no session holds the lock"


async def test_lock_status_names_the_session_that_blocks_an_index_build(
    database_url: str, plain_role: str, tmp_path: Path
) -> None:
    """An index build waits: the status names kind, phase and blocking session, or the GRANT that a role lacks."""
    await fetch(database_url, "CREATE TABLE t (a int)")
    write = in_the_way(database_url, "INSERT INTO t VALUES (1)", "nightly-report")
    async with write as blocker, migrating(database_url, tree(tmp_path, BUILD.format("a"))):
        await eventually(database_url, BUILDING.format("waiting for writers"), "a build that waits")
        seen, other = await status_for(database_url), await status_for(plain_role)
        await fetch(database_url, f"GRANT pg_read_all_stats TO {ROLE}")
        granted = await status_for(plain_role)
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


async def test_lock_status_shows_the_progress_of_an_index_build(database_url: str, tmp_path: Path) -> None:
    """An index is built: the percentage of its phase grows and never falls."""
    await fetch(database_url, SLOW_ROWS)
    await fetch(database_url, "CREATE TABLE t AS SELECT a, repeat('x', 7000) AS b FROM generate_series(1, 600) a")
    percents: list[float] = []
    async with migrating(database_url, tree(tmp_path, BUILD.format("slow(a)"))):
        await eventually(database_url, BUILDING.format("building index"), "a build at work")
        while (
            seen := await status_for(database_url)
        ).statement and seen.statement.phase == "building index: scanning table":
            percents.append(seen.statement.percent or 0)
    # PostgreSQL reports 100 % for a moment before it starts with the first block
    moving = percents[percents.index(min(percents)) :]
    assert moving == sorted(moving)
    assert len(set(moving)) > 2
    assert 0 <= moving[0] < moving[-1] <= 100
