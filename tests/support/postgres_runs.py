"""Runs on PostgreSQL without a service: one session, one request, and its attempts on another connection."""

from pathlib import Path
from typing import Any

from api.migrations.core.protocols import MigrationRequest, OperatorSession
from api.migrations.core.reporter import ProgressReporter
from api.migrations.core.status import Tracker
from tests.support.fakes import assembled
from tests.support.servers import fetch

HEAD = MigrationRequest("upgrade", "head")


async def locked(url: str, ini: Path, instance: str = "one", **settings: Any) -> OperatorSession:
    """Return a session that holds the lock."""
    session = assembled(url, ini, instance, lock_timeout_seconds=0, **settings).session()
    await session.open()
    assert await session.try_lock()
    return session


async def run(url: str, ini: Path, order: MigrationRequest = HEAD, instance: str = "one", **settings: Any) -> None:
    """Run one request."""
    session = await locked(url, ini, instance, **settings)
    try:
        await session.run(order, ProgressReporter(Tracker()))
    finally:
        await session.close()


async def history(url: str, columns: str = "revision, outcome") -> list[tuple[Any, ...]]:
    """Return the attempts, oldest first, as another connection reads them."""
    return [tuple(row) for row in await fetch(url, f"SELECT {columns} FROM alembic_version_history ORDER BY id")]
