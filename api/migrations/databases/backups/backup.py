"""A backup under the lock, complete before anything is changed. Nothing is ever restored by itself.

What makes the copy differs (`postgres`, `sqlite`); how it gets its name, is checked, recorded and in the end removed
does not.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import logging
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar

import sqlalchemy as sa

from ...errors import BackupFailed
from ...execution.history_table import History, RunAuthor
from .archive import CHECKSUM, PARTIAL, Archive

log = logging.getLogger(__name__)

CHUNK_BYTES = 4 * 1024 * 1024

Copy = Callable[[Path], Coroutine[Any, Any, tuple[int, str]]]
"""Makes and checks a copy at a path; returns its size in bytes and its SHA-256."""


@dataclass(frozen=True)
class Made:
    """A backup that is complete and verified."""

    path: str
    bytes: int
    sha256: str
    revisions: tuple[str, ...]
    restore: str
    """The command that restores it into a new, empty database; without host, user and password."""


class Backup:
    """Takes backups into `archive`; `made` are those of this run, newest last.

    Raises:
        BackupFailed: its folder is something else.
    """

    restores_into: ClassVar[str]
    """Where `Made.restore` puts the data, for people."""

    def __init__(self, archive: Archive, seconds: float, history: History, author: RunAuthor) -> None:
        _refuse_no_folder(archive.folder.absolute())
        self.made: list[Made] = []
        self._archive = archive
        self._seconds = seconds
        self._history = history
        self._author = author

    @asynccontextmanager
    async def _limit(self) -> AsyncIterator[None]:
        limit = asyncio.timeout(self._seconds)
        try:
            async with limit:
                yield
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise BackupFailed(
                f"the backup did not finish within MIGRATION_BACKUP_SECONDS={self._seconds:g}; nothing was changed; "
                "raise it"
            ) from error

    async def _keep(
        self, database: str, began: datetime, revisions: frozenset[str], copy: Copy, restore: Callable[[Path], str]
    ) -> Made:
        path = self._archive.path(database, revisions, began)
        log.info("Backing up %s to %s", database, path, extra={"event": "backup_started"})
        with _files(path) as partial:
            size, sha256 = await copy(partial)
            _complete(partial, path, sha256)
        made = Made(str(path), size, sha256, tuple(sorted(revisions)), restore(path))
        self.made.append(made)
        log.info("Backed up: %s (%d bytes)", path, made.bytes, extra={"event": "backed_up"})
        return made

    def _record(self, given: sa.Connection, made: Made, began: datetime) -> None:
        self._history.create(given)
        self._history.backed_up(given, self._author, ",".join(made.revisions) or "base", began, made.restore)
        given.commit()

    def _prune(self, database: str) -> None:
        self._archive.prune(database, [Path(one.path) for one in self.made], self._seconds)


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Around whatever writes into `folder`: there an operating system's error is a failed backup.

    Anywhere else it means that the connection is lost.
    """
    try:
        yield
    except OSError as error:
        raise BackupFailed(
            f"no backup can be written into {folder}: {error.strerror}; nothing was changed; make it writable, or name "
            "another folder with --to or MIGRATION_BACKUP_DIR"
        ) from error


async def digest(path: Path) -> tuple[int, str]:
    """The size of a file in bytes, and its SHA-256."""
    size, digest = 0, hashlib.sha256()
    with writing(path.parent), path.open("rb") as file:
        # piece by piece, so that it can be cancelled, and the lock is asked after meanwhile
        while piece := await asyncio.to_thread(file.read, CHUNK_BYTES):
            digest.update(piece)
            size += len(piece)
    return size, digest.hexdigest()


def _refuse_no_folder(folder: Path) -> None:
    there = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    if not there.is_dir():
        raise BackupFailed(
            f"no backup can be written into {folder}: {there} is not a folder; nothing was changed. To fix: name a "
            "folder with --to or MIGRATION_BACKUP_DIR"
        )


@contextmanager
def _files(path: Path) -> Iterator[Path]:
    # what is not complete at the end, for whatever reason, is removed
    partial = path.with_name(path.name + PARTIAL)
    with writing(path.parent):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        # whoever makes the copy would let everybody read it
        os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    try:
        yield partial
    finally:
        partial.unlink(missing_ok=True)


def _complete(partial: Path, path: Path, sha256: str) -> None:
    # the checksum first: what bears the final name always has one
    beside, flags = path.with_name(path.name + CHECKSUM), os.O_CREAT | os.O_EXCL | os.O_WRONLY
    with writing(path.parent):
        file = os.open(beside, flags, 0o600)
        try:
            with os.fdopen(file, "w") as text:
                text.write(f"{sha256}  {path.name}\n")
            partial.rename(path)
        except BaseException:
            beside.unlink()
            raise
