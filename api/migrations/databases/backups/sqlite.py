"""Backups of SQLite with its online backup API, while the service reads and, in WAL mode, writes.

A copy of the file itself could contain half of a transaction, or lack the WAL.
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
from .backup import Archive, Backup, digest, writing

PAGES = 1000
"""Copied at a time; the copy can be cancelled in between."""
BUSY_SECONDS = 10.0


def create(settings: MigrationSettings, url: DatabaseURL, folder: Path, history: History, author: RunAuthor) -> Backup:
    """Return what takes backups of the file of `url` into `folder`."""
    archive = Archive(folder, settings.backup_keep, ".sqlite")
    return SqliteBackup(archive, settings.backup_seconds, history, author, Path(url.database))


class SqliteBackup(Backup):
    """Takes backups of the file at `source`."""

    restores_into = "beside the database's file"

    def __init__(self, archive: Archive, seconds: float, history: History, author: RunAuthor, source: Path) -> None:
        super().__init__(archive, seconds, history, author)
        self._source = source

    async def take(self, connection: AsyncConnection, revisions: frozenset[str]) -> None:
        """Back up the database, which is at `revisions`; `connection` holds the lock and records the backup.

        Raises `BackupFailed`.
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
                f"SQLite could not copy {self._source.name}: {error}; nothing was changed. To fix: check the file with "
                "PRAGMA integrity_check, and the free space of the backup's folder"
            ) from error
        finally:
            # the thread must not write into a file that is removed
            stop.set()
            await asyncio.wait({copying})
        return await digest(partial)

    def _restore(self, path: Path) -> str:
        # cp -n overwrites nothing
        into = self._source.absolute().with_name(f"{self._source.name}.restored")
        return shlex.join(["cp", "-n", str(path), str(into)])


def _copied(source: Path, target: Path, stopped: Callable[[], bool]) -> None:
    def check_stopped(*_: int) -> None:
        if stopped():
            raise BackupFailed("the backup was cancelled")

    with (
        writing(target.parent),
        closing(sqlite3.connect(source, timeout=BUSY_SECONDS, isolation_level=None)) as reading,
        closing(sqlite3.connect(target, isolation_level=None)) as copy,
    ):
        # in one transaction: otherwise each write of the service would restart the copy
        reading.execute("BEGIN")
        reading.execute("SELECT count(*) FROM sqlite_master")
        reading.backup(copy, pages=PAGES, progress=check_stopped)
        # one file, without a WAL
        copy.execute("PRAGMA journal_mode = DELETE")
        [verdict] = copy.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise BackupFailed(
                f"the copy of {source.name} is damaged ({verdict}). To fix: check the database for damage"
            )
