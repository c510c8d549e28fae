"""A migration that stays in its last revision until the harness lets it go, and what sessions do meanwhile."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import asyncpg

from bench.errors import BenchError
from bench.laboratory import Laboratory

LONGEST_SECONDS = 120.0
LOOK_SECONDS = 0.05
SETTLED_SECONDS = 1.0
"""A waiter listens and has slept once before the migration ends."""

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
WAITING = {
    "ours": "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
    "AND application_name LIKE 'migrations:%:waiting:%'",
    "recipe": "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted "
    "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
    "poll": "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'poll'",
}
"""How the waiting instances of each variant are counted."""


def until(condition: Callable[[], bool], what: str) -> None:
    """Return as soon as `condition` holds.

    Raises:
        BenchError: it does not hold within 120 s; the message has `what`.
    """
    deadline = time.monotonic() + LONGEST_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise BenchError(f"not within {LONGEST_SECONDS:.0f} s: {what}")
        time.sleep(LOOK_SECONDS)


def executing(lab: Laboratory, url: str, words: str) -> dict[int, float]:
    """Return since when sessions execute a statement that contains `words`, in seconds since 1970, by their pids."""
    rows = lab.database.execute(url, EXECUTING.format(words=words))
    return {row["pid"]: row["since"] for row in rows}


def until_held(lab: Laboratory, url: str) -> None:
    """Wait until a session is in the revision `HELD`."""
    until(lambda: bool(executing(lab, url, "let_go")), "a session executes the last revision")


def until_waiting(lab: Laboratory, url: str, variant: str, how_many: int) -> None:
    """Wait until that many instances of a variant wait, and a moment longer."""
    sql = WAITING[variant]
    until(lambda: lab.database.execute(url, sql)[0][0] >= how_many, f"{how_many} instances ({variant}) wait")
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
