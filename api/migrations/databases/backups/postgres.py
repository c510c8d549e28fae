"""Backups of PostgreSQL with pg_dump.

While pg_dump runs, the session that holds the lock confirms it every second. So the server does not close the session
as idle, and `unlock` does not mistake it for stuck. Without the lock, pg_dump is terminated.
"""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import asyncpg

from ...core.protocols import ANSWER_SECONDS
from ...errors import BackupFailed, DirectConnectionNeeded
from ...execution.history_table import History, RunAuthor
from ...lock_manager import SessionLock, application_name
from ...settings import MigrationSettings
from ...urls.database_url import DatabaseURL
from ..postgres.connection import engine_over
from .backup import Archive, Backup, digest
from .pg_dump import Tools, environment

CONFIRM_SECONDS = 1.0

T = TypeVar("T")


def create(settings: MigrationSettings, url: DatabaseURL, folder: Path, history: History, author: RunAuthor) -> Backup:
    """Return what takes backups of the database of `url` into `folder`."""
    archive, version_table = Archive(folder, settings.backup_keep), settings.version_table
    return PostgresBackup(archive, settings.backup_seconds, history, author, url, version_table, settings.idle_seconds)


class PostgresBackup(Backup):
    """Takes backups of the database of `url`, whose version table is called `version_table`."""

    restores_into = "into a new database, with PGHOST, PGUSER and PGPASSWORD set"

    def __init__(
        self,
        archive: Archive,
        seconds: float,
        history: History,
        author: RunAuthor,
        url: DatabaseURL,
        version_table: str,
        idle_seconds: float = 0.0,
    ) -> None:
        super().__init__(archive, seconds, history, author)
        self._url = url
        self._version_table = version_table
        self._confirm_seconds = min(CONFIRM_SECONDS, idle_seconds / 3 or CONFIRM_SECONDS)

    async def take(self, lock: SessionLock, connection: asyncpg.Connection, revisions: frozenset[str]) -> None:
        """Back up the database, which is at `revisions`, while `connection` holds `lock`.

        Raises `BackupFailed`, `DirectConnectionNeeded` behind a pooler, or `HoldLost`.
        """
        if lock.transaction_scoped:
            raise DirectConnectionNeeded(
                "no backup through a pooler: pg_dump needs a session of its own. To fix: set MIGRATION_DATABASE_URL to "
                "the database's direct endpoint (its own port, not the pooler's)"
            )
        async with self._limit():
            await self._take(lock, connection, revisions)

    async def _take(self, lock: SessionLock, connection: asyncpg.Connection, revisions: frozenset[str]) -> None:
        name = application_name(lock.key, "backup", self._author.instance)
        own = await environment(connection, self._url, name)
        tools = await Tools.find(connection.get_server_version().major, own)
        database, began = await connection.fetchrow(
            "SELECT current_database(), clock_timestamp()", timeout=ANSWER_SECONDS
        )

        async def copy(partial: Path) -> tuple[int, str]:
            return await _confirming(self._dumped(tools, partial, revisions), lock.confirm, self._confirm_seconds)

        made = await self._keep(database, began, revisions, copy, lambda path: _restore(database, path))
        async with engine_over(connection, SessionLock.isolation_level).connect() as recording:
            await recording.run_sync(self._record, made, began)
        self._prune(database)

    async def _dumped(self, tools: Tools, partial: Path, revisions: frozenset[str]) -> tuple[int, str]:
        await tools.dump(partial)
        data = [line for line in await tools.contents(partial) if " TABLE DATA " in line]
        size, sha256 = await digest(partial)
        # an empty database has no entries
        if not size or (revisions and not any(f" {self._version_table} " in line for line in data)):
            raise BackupFailed(f"pg_dump succeeded, but its file ({size} bytes) has no data of {self._version_table}")
        return size, sha256


async def _confirming(work: Coroutine[Any, Any, T], confirm: Callable[[], Awaitable[None]], seconds: float) -> T:
    task = asyncio.create_task(work, name="backup")
    try:
        while not (await asyncio.wait({task}, timeout=seconds))[0]:
            await confirm()
        return task.result()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task})


def _restore(database: str, path: Path) -> str:
    into = f"{database}_restored"
    create = shlex.join(["createdb", "--template=template0", into])
    # createdb fails if the database exists, so nothing is overwritten
    return f"{create} && {shlex.join(['pg_restore', '--exit-on-error', f'--dbname={into}', str(path)])}"
