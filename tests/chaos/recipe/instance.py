"""One instance of the recipe, as a process: `python -m tests.chaos.recipe.instance URL INI`.

The lock is on the session that runs the revisions, as careful people do; `--lock beside` gives it a connection of its
own, as most do; `--lock none` leaves it out. `--crowd N` is N processes that start at the same moment, which is cheaper
than N interpreters; the exit code is then the number of those that failed.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
import uuid
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

log = logging.getLogger(__name__)

KEY = 1
LOCK, UNLOCK = f"SELECT pg_advisory_lock({KEY})", f"SELECT pg_advisory_unlock({KEY})"
THROUGH_A_POOLER: dict[str, Any] = {
    "statement_cache_size": 0,
    "prepared_statement_cache_size": 0,
    "prepared_statement_name_func": lambda: f"__{uuid.uuid4()}__",
}


async def migrate(url: str, ini: str, lock: str, *, pooled: bool = False) -> None:
    """Migrate as an instance does at its start."""
    engine = create_async_engine(
        url.replace("postgresql://", "postgresql+asyncpg://"),
        poolclass=NullPool,
        connect_args=THROUGH_A_POOLER if pooled else {},
    )
    if lock == "none":
        async with engine.connect() as connection:
            await connection.run_sync(upgrade, Config(ini))
    elif lock == "beside":
        await _locked_beside(engine, ini)
    else:
        await _locked_on_the_same_session(engine, ini)


async def _locked_on_the_same_session(engine: AsyncEngine, ini: str) -> None:
    async with engine.connect() as connection:
        await _take(connection)
        await connection.execution_options(isolation_level="READ COMMITTED")
        await connection.run_sync(upgrade, Config(ini))
        await connection.execute(sa.text(UNLOCK))


async def _locked_beside(engine: AsyncEngine, ini: str) -> None:
    async with engine.connect() as connection, engine.connect() as holder:
        await _take(holder)
        await connection.run_sync(upgrade, Config(ini))
        await holder.execute(sa.text(UNLOCK))


async def _take(connection: AsyncConnection) -> None:
    # in autocommit, or the lock's connection would be idle in a transaction all the time
    await connection.execution_options(isolation_level="AUTOCOMMIT")
    await connection.execute(sa.text(LOCK))
    await connection.commit()


async def serve_on(url: str, ini: str) -> None:
    """Log the error of a failed migration, and keep the process with its connection pool."""
    engine = create_async_engine(url.replace("postgresql://", "postgresql+asyncpg://"))
    try:
        await _locked_on_the_same_session(engine, ini)
    except sa.exc.DBAPIError:
        log.exception("migration failed")
    await asyncio.Event().wait()


def upgrade(connection: sa.Connection, config: Config) -> None:
    """Run `alembic upgrade head` on a given connection."""
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
    connection.commit()


def _crowd(number: int, options: argparse.Namespace) -> int:
    children = [os.fork() for _ in range(number) if os.getpid() == PARENT]
    if os.getpid() == PARENT:
        return sum(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0 for child in children)
    asyncio.run(migrate(options.url, options.ini, options.lock, pooled=options.pooled))
    return 0


PARENT = os.getpid()

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("ini")
    parser.add_argument("--lock", choices=["same", "beside", "none"], default="same")
    parser.add_argument("--pooled", action="store_true", help="as PgBouncer's documentation asks asyncpg to connect")
    parser.add_argument("--serve-on", action="store_true", help="whatever happened, with a pool of connections")
    parser.add_argument("--crowd", type=int, metavar="N")
    given = parser.parse_args()
    if given.crowd:
        sys.exit(_crowd(given.crowd, given))
    if given.serve_on:
        asyncio.run(serve_on(given.url, given.ini))
    asyncio.run(migrate(given.url, given.ini, given.lock, pooled=given.pooled))
