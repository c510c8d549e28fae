"""Backups of SQLite with its online backup API, while the service goes on reading and, in WAL mode, writing.

Copying the file itself would tear it in the middle of somebody's transaction, or leave the WAL behind.
"""

from __future__ import annotations

import asyncio
import shlex
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy.ext.asyncio import AsyncConnection

from ...errors import BackupFailed
from ...execution.history_table import History, RunAuthor
from ...settings import MigrationSettings
from ...urls.database_url import DatabaseURL
from .archive import Archive
from .backup import Backup, digest, writing

PAGES = 1000
"""Copied at a time; between two the copy can be given up."""
BUSY_SECONDS = 10.0


def create(settings: MigrationSettings, url: DatabaseURL, folder: Path, history: History, author: RunAuthor) -> Backup:
    """What takes backups of the file of `url` into `folder`."""
    archive = Archive(folder, settings.backup_keep, ".sqlite")
    return SqliteBackup(archive, settings.backup_seconds, history, author, Path(url.database))


class SqliteBackup(Backup):
    """Takes backups of the file at `source`."""

    restores_into = "beside the database's file"

    def __init__(self, archive: Archive, seconds: float, history: History, author: RunAuthor, source: Path) -> None:
        super().__init__(archive, seconds, history, author)
        self._source = source

    async def take(self, connection: AsyncConnection, revisions: frozenset[str]) -> None:
        """Back the database up, which is at `revisions`; `connection`, which holds the lock, writes it down.

        Raises:
            BackupFailed: there is none; nothing was changed.
        """
        name, began = self._source.name, datetime.now(UTC)
        async with self._limit():
            made = await self._keep(name, began, revisions, self._copy, self._restore)
            await connection.run_sync(self._record, made, began)
        self._prune(name)

    async def _copy(self, partial: Path) -> tuple[int, str]:
        stop = threading.Event()
        copying = asyncio.ensure_future(asyncio.to_thread(_copied, self._source, partial, stop.is_set))
        try:
            await asyncio.shield(copying)
        except sqlite3.Error as error:
            raise BackupFailed(
                f"SQLite could not copy {self._source.name}: {error}; nothing was changed; look at the file with "
                "PRAGMA integrity_check, and at the space in the backup's folder"
            ) from error
        finally:
            # the thread must not write into what is removed
            stop.set()
            await asyncio.wait({copying})
        return await digest(partial)

    def _restore(self, path: Path) -> str:
        # into a name that is not there: nothing can be restored over anything
        into = self._source.absolute().with_name(f"{self._source.name}.restored")
        return shlex.join(["cp", "-n", str(path), str(into)])


def _copied(source: Path, target: Path, stopped: Callable[[], bool]) -> None:
    def go_on(*_: int) -> None:
        if stopped():
            raise BackupFailed("the backup was given up")

    with (
        writing(target.parent),
        closing(sqlite3.connect(source, timeout=BUSY_SECONDS, isolation_level=None)) as reading,
        closing(sqlite3.connect(target, isolation_level=None)) as copy,
    ):
        # in one transaction: a writer would otherwise make it begin again, for ever on a busy database
        reading.execute("BEGIN")
        reading.execute("SELECT count(*) FROM sqlite_master")
        reading.backup(copy, pages=PAGES, progress=go_on)
        # one file, without a log beside it
        copy.execute("PRAGMA journal_mode = DELETE")
        [verdict] = copy.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise BackupFailed(f"the copy of {source.name} is not sound ({verdict}); look at the database itself")
