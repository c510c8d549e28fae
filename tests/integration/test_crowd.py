"""Two hundred instances start at once on a server with a hundred connections."""

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

from api.migrations.assembly import Assembly
from api.migrations.core.status import Phase
from tests.support.fakes import assembled, tree
from tests.support.pace import scaled
from tests.support.servers import Server, fetch

INSTANCES = 200
ROLE = f"crowd_{os.getpid()}"
SAMPLE_SECONDS = 0.02
ALL_READY_SECONDS = scaled(180)
SLOW = 'op.execute("CREATE TABLE t (a int)")\nop.execute("SELECT pg_sleep(2)")'

log = logging.getLogger(__name__)


@pytest.fixture
def crowd_url(server: Server, database_url: str) -> Iterator[str]:
    """Yield the URL of a role that cannot use the connections reserved for superusers."""
    name = urlsplit(database_url).path[1:]
    server.execute(f"CREATE ROLE {ROLE} LOGIN PASSWORD 'secret'")
    server.execute(f'ALTER DATABASE "{name}" OWNER TO {ROLE}')
    yield server.url(name, user=ROLE, password="secret")
    server.execute(f'ALTER DATABASE "{name}" OWNER TO postgres')
    server.execute(f"DROP OWNED BY {ROLE} CASCADE", database=name)
    server.execute(f"DROP ROLE {ROLE}")


@asynccontextmanager
async def most_connections(url: str) -> AsyncIterator[list[int]]:
    """Count the server's clients from a superuser's connection while the block runs; yield the counts."""
    samples: list[int] = []
    ended = asyncio.Event()

    async def sample() -> None:
        connection = await asyncpg.connect(url)
        try:
            while not ended.is_set():
                sql = "SELECT count(*) FROM pg_stat_activity WHERE datid IS NOT NULL"
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


async def test_two_hundred_instances_become_ready_on_a_hundred_connections(
    crowd_url: str, database_url: str, tmp_path: Path
) -> None:
    """200 instances start at once: one migrates undisturbed, none fails, and a superuser can always connect."""
    limit = int((await fetch(database_url, "SHOW max_connections"))[0][0])
    ini = tree(tmp_path, SLOW)
    crowd: list[Assembly] = [
        assembled(crowd_url, ini, f"api-{number}", lock_timeout_seconds=2) for number in range(INSTANCES)
    ]
    began = time.monotonic()
    async with most_connections(database_url) as samples, asyncio.timeout(ALL_READY_SECONDS):
        await asyncio.gather(*(assembly.coordinator().become_ready() for assembly in crowd))
    log.info("all ready in %.1f s, at most %d of %d connections", time.monotonic() - began, max(samples), limit)
    assert {assembly.tracker.status.phase for assembly in crowd} == {Phase.READY}
    rows = await fetch(database_url, "SELECT revision, outcome FROM alembic_version_history")
    assert [tuple(row) for row in rows] == [("r1", "applied")], "the one that migrated was not disturbed"
    ran = [assembly.tracker.status.last_run for assembly in crowd if assembly.tracker.status.last_run]
    assert [run.applied for run in ran] == [("r1",)]
    assert max(samples) < limit
    took = "SELECT extract(epoch FROM finished_at - started_at)::float8 FROM alembic_version_history"
    log.info("the revision of 2 s took %.1f s", (await fetch(database_url, took))[0][0])
