"""Backups of PostgreSQL with pg_dump.

The session that holds the lock does nothing while pg_dump runs, so it asks the server every second whether the lock is
still its own: that keeps the server from ending it (MIGRATION_IDLE_SECONDS still ends a process that was stopped), and
`unlock` from taking it for stuck. A lost lock ends pg_dump.
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
from .archive import Archive
from .backup import Backup, digest
from .libpq import environment
from .pg_dump import Tools

ASK_SECONDS = 1.0

T = TypeVar("T")


def create(settings: MigrationSettings, url: DatabaseURL, folder: Path, history: History, author: RunAuthor) -> Backup:
    """What takes backups of the database of `url` into `folder`."""
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
        self._ask_seconds = min(ASK_SECONDS, idle_seconds / 3 or ASK_SECONDS)

    async def take(self, lock: SessionLock, connection: asyncpg.Connection, revisions: frozenset[str]) -> None:
        """Back the database up, which is at `revisions`, while `connection` holds `lock`.

        Raises:
            BackupFailed: there is none; nothing was changed.
            DirectConnectionNeeded: a pooler is in between.
            HoldLost: the lock went meanwhile.
        """
        if lock.transaction_scoped:
            raise DirectConnectionNeeded(
                "no backup through a pooler: pg_dump needs one session for itself; set MIGRATION_DATABASE_URL to the "
                "database's direct endpoint (its own port, not the pooler's)"
            )
        async with self._limit():
            await self._take(lock, connection, revisions)

    async def _take(self, lock: SessionLock, connection: asyncpg.Connection, revisions: frozenset[str]) -> None:
        name = application_name(lock.key, "backup", self._author.instance)
        tools = await Tools.find(connection.get_server_version().major, environment(connection, self._url, name))
        database, began = await connection.fetchrow(
            "SELECT current_database(), clock_timestamp()", timeout=ANSWER_SECONDS
        )

        async def copy(partial: Path) -> tuple[int, str]:
            return await _while_asking(self._dumped(tools, partial, revisions), lock.confirm, self._ask_seconds)

        made = await self._keep(database, began, revisions, copy, lambda path: _restore(database, path))
        async with engine_over(connection, SessionLock.isolation_level).connect() as given:
            await given.run_sync(self._record, made, began)
        self._prune(database)

    async def _dumped(self, tools: Tools, partial: Path, revisions: frozenset[str]) -> tuple[int, str]:
        await tools.dump(partial)
        data = [line for line in await tools.contents(partial) if " TABLE DATA " in line]
        size, sha256 = await digest(partial)
        # an empty database has nothing to list
        if not size or (revisions and not any(f" {self._version_table} " in line for line in data)):
            raise BackupFailed(f"pg_dump ended well, but its file ({size} bytes) has no data of {self._version_table}")
        return size, sha256


async def _while_asking(work: Coroutine[Any, Any, T], ask: Callable[[], Awaitable[None]], seconds: float) -> T:
    task = asyncio.create_task(work, name="backup")
    try:
        while not (await asyncio.wait({task}, timeout=seconds))[0]:
            await ask()
        return task.result()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task})


def _restore(database: str, path: Path) -> str:
    into = f"{database}_restored"
    create = shlex.join(["createdb", "--template=template0", into])
    # createdb fails where the database exists: nothing can be restored over anything
    return f"{create} && {shlex.join(['pg_restore', '--exit-on-error', f'--dbname={into}', str(path)])}"
