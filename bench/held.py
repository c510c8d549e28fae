"""A migration that stays in its last revision until the harness lets it go, and what sessions do meanwhile."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import asyncpg

from bench.crowd import Crowd
from bench.errors import BenchError
from bench.laboratory import Laboratory
from bench.service import Instance

LONGEST_SECONDS = 120.0
LOOK_SECONDS = 0.05
SETTLED_SECONDS = 1.5
"""A waiter has slept at least once before the migration ends."""

UNTIL_LET_GO = (
    "DO $$ BEGIN WHILE NOT EXISTS (SELECT FROM pg_class WHERE relname = 'let_go') "
    "LOOP PERFORM pg_sleep(0.01); END LOOP; END $$"
)
HELD = f'op.execute("{UNTIL_LET_GO}")'
"""The body of a revision that ends after `let_go`."""

EXECUTING = (
    "SELECT pid, extract(epoch FROM query_start)::float8 AS since FROM pg_stat_activity "
    "WHERE datname = current_database() AND pid <> pg_backend_pid() AND state = 'active' "
    "AND position('{words}' IN query) > 0"
)
BLOCKED = (
    "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted "
    "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)
POLLING = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'poll'"


def until(condition: Callable[[], bool], what: str, longest_seconds: float = LONGEST_SECONDS) -> None:
    """Return as soon as `condition` holds.

    Raises:
        BenchError: it does not hold within `longest_seconds`; the message has `what`.
    """
    deadline = time.monotonic() + longest_seconds
    while not condition():
        if time.monotonic() > deadline:
            raise BenchError(f"not within {longest_seconds:.0f} s: {what}")
        time.sleep(LOOK_SECONDS)


def executing(lab: Laboratory, url: str, words: str) -> dict[int, float]:
    """Return since when sessions execute a statement that contains `words`, in seconds since 1970, by their pids."""
    rows = lab.database.execute(url, EXECUTING.format(words=words))
    return {row["pid"]: row["since"] for row in rows}


def until_held(lab: Laboratory, url: str) -> None:
    """Wait until a session is in the revision `HELD`."""
    until(lambda: bool(executing(lab, url, "let_go")), "a session executes the last revision")


def until_instances_wait(lab: Laboratory, url: str, instances: Sequence[Instance]) -> None:
    """Wait until these instances of one variant wait, and a moment longer."""

    def all_wait() -> bool:
        if instances[0].variant == "ours":
            return all(instance.phase() == "waiting" for instance in instances)
        return bool(lab.database.execute(url, BLOCKED)[0][0] >= len(instances))

    until(all_wait, f"{len(instances)} instances ({instances[0].variant}) wait")
    time.sleep(SETTLED_SECONDS)


def until_crowd_waits(lab: Laboratory, url: str, crowd: Crowd) -> None:
    """Wait until all instances of a crowd wait, and a moment longer."""

    def all_wait() -> bool:
        if crowd.variant == "ours":
            return crowd.all_wait()
        return bool(lab.database.execute(url, POLLING)[0][0] >= crowd.instances)

    until(all_wait, f"{crowd.instances} instances ({crowd.variant}) wait")
    time.sleep(SETTLED_SECONDS)


def let_go(lab: Laboratory, url: str) -> None:
    """Let the revision `HELD` end."""
    lab.database.execute(url, "CREATE TABLE let_go ()")


@contextmanager
def sampled(url: str, sql: str, every_seconds: float = LOOK_SECONDS) -> Iterator[list[Any]]:
    """Run a query again and again on one connection during the block; yield the rows, which grow meanwhile."""
    rows: list[Any] = []
    ended = threading.Event()

    async def sample() -> None:
        connection = await asyncpg.connect(url)
        try:
            while not ended.is_set():
                rows.extend(await connection.fetch(sql))
                await asyncio.sleep(every_seconds)
        finally:
            await connection.close()

    thread = threading.Thread(target=lambda: asyncio.run(sample()), name="sampler")
    thread.start()
    try:
        yield rows
    finally:
        ended.set()
        thread.join()
