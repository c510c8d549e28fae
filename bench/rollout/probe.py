"""How long writers wait for the lock of a table: asked by sessions that do nothing else, whatever the service does."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import asyncpg

EVERY_SECONDS = 0.04

SERVICE_WAITS = """
SELECT extract(epoch FROM clock_timestamp())::float8 AS at,
       extract(epoch FROM max(clock_timestamp() - waitstart))::float8 AS seconds
FROM pg_locks JOIN pg_stat_activity USING (pid)
WHERE NOT granted AND application_name LIKE 'ledger%' AND datname = current_database()
HAVING max(waitstart) IS NOT NULL
"""
"""The longest wait of a session of the service for any lock, of a table or a row, at this moment."""


@dataclass(frozen=True)
class Stall:
    """A wait for a lock: when it began or was seen, in seconds since 1970, and how long it took."""

    at: float
    seconds: float
    table: str


@contextmanager
def probed(url: str, tables: Sequence[str]) -> Iterator[list[Stall]]:
    """Acquire the lock of a write on each table every 40 ms during the block; yield the waits, which grow meanwhile."""
    stalls: list[Stall] = []
    ended = threading.Event()

    async def probe(table: str) -> None:
        connection = await asyncpg.connect(url, server_settings={"application_name": "probe"})
        try:
            while not ended.is_set():
                at, began = time.time(), time.monotonic()
                # what INSERT acquires; without rows, so that it waits for tables only
                await connection.execute(f"BEGIN; LOCK TABLE {table} IN ROW EXCLUSIVE MODE; COMMIT")
                stalls.append(Stall(at, time.monotonic() - began, table))
                await asyncio.sleep(EVERY_SECONDS)
        finally:
            await connection.close()

    async def probe_all() -> None:
        await asyncio.gather(*(probe(table) for table in tables))

    thread = threading.Thread(target=lambda: asyncio.run(probe_all()), name="probe")
    thread.start()
    try:
        yield stalls
    finally:
        ended.set()
        thread.join()
