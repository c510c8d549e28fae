"""Three times as many instances as the server has connections."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import asyncpg

from api.migrations.assembly import Assembly
from api.migrations.state import Phase
from tests.servers import fetch
from tests.unit.fakes import assembled, tree

INSTANCES = 300
SAMPLE_SECONDS = 0.02
ALL_READY_SECONDS = 180.0
SLOW = 'op.execute("CREATE TABLE t (a int)")\nop.execute("SELECT pg_sleep(2)")'

log = logging.getLogger(__name__)


@asynccontextmanager
async def most_connections(url: str) -> AsyncIterator[list[int]]:
    """Count the server's clients in a thread of its own until the end; yields all that was counted."""
    samples: list[int] = []
    ended = asyncio.Event()

    async def sample() -> None:
        connection = await asyncpg.connect(url)
        try:
            while not ended.is_set():
                sql = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"
                samples.append(await connection.fetchval(sql))
                with suppress(TimeoutError):
                    await asyncio.wait_for(ended.wait(), SAMPLE_SECONDS)
        finally:
            await connection.close()

    task = asyncio.create_task(sample())
    try:
        yield samples
    finally:
        ended.set()
        await task


async def test_everybody_becomes_ready(database_url: str, tmp_path: Path) -> None:
    """300 at once against 100 connections: one migrates undisturbed, nobody fails, and the server never fills up."""
    limit = int((await fetch(database_url, "SHOW max_connections"))[0][0])
    ini = tree(tmp_path, SLOW)
    crowd: list[Assembly] = [
        assembled(database_url, ini, f"api-{number}", lock_timeout_seconds=2) for number in range(INSTANCES)
    ]
    async with most_connections(database_url) as samples:
        async with asyncio.timeout(ALL_READY_SECONDS):
            await asyncio.gather(*(assembly.coordinator().become_ready() for assembly in crowd))
    log.info("%d of %d connections at the most, in %d samples", max(samples), limit, len(samples))
    assert {assembly.tracker.status.phase for assembly in crowd} == {Phase.READY}
    rows = await fetch(database_url, "SELECT revision, outcome FROM alembic_version_history")
    assert [tuple(row) for row in rows] == [("r1", "applied")], "the one that migrated was not disturbed"
    ran = [assembly.tracker.status.last_run for assembly in crowd if assembly.tracker.status.last_run]
    assert [run.applied for run in ran] == [("r1",)]
    assert max(samples) < limit
