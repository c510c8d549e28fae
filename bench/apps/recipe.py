"""The service with the usual recipe: `pg_advisory_lock` around `alembic upgrade head` in the lifespan."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from fastapi import FastAPI
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from bench.apps.ready import noting
from bench.apps.service import create_app, pool

KEY = 1


def upgrade(connection: sa.Connection) -> None:
    """Run `alembic upgrade head` on the session that holds the lock."""
    config = Config(os.environ["ALEMBIC_CONFIG"])
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
    connection.commit()


async def migrate(url: str) -> None:
    """Wait for the lock, migrate, and release it."""
    engine = create_async_engine(url.replace("postgresql://", "postgresql+asyncpg://"), poolclass=NullPool)
    async with engine.connect() as connection:
        # in autocommit, or it would be idle in a transaction while it waits
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        await connection.execute(sa.text(f"SELECT pg_advisory_lock({KEY})"))
        await connection.commit()
        await connection.execution_options(isolation_level="READ COMMITTED")
        await connection.run_sync(upgrade)
        await connection.execute(sa.text(f"SELECT pg_advisory_unlock({KEY})"))
    await engine.dispose()


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Migrate, then serve."""
    await migrate(os.environ["DATABASE_URL"])
    async with noting(pool)(app):
        yield


app = create_app(lifespan)
