"""Takes a backup under the lock, before the migration changes anything. This package never restores one.

`postgres` and `sqlite` make the copy; this module names, verifies, records and removes backups. A backup is called
`<database>@<revision>@<UTC time>.dump` (`.sqlite` for SQLite), with unusual characters as %XX, so that the names of two
databases cannot collide.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import logging
import os
import re
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import sqlalchemy as sa

from ...errors import BackupFailed
from ...execution.history_table import History, RunAuthor

log = logging.getLogger(__name__)

CHECKSUM, PARTIAL = ".sha256", ".partial"
CHUNK_BYTES = 4 * 1024 * 1024

_TIME = r"\d{8}T\d{6}\.\d{3}Z"
_UNUSUAL = re.compile(r"[^\w.-]")
_LONGEST_REVISION = 64

Copy = Callable[[Path], Coroutine[Any, Any, tuple[int, str]]]
"""Makes and verifies a copy at a path; returns its size in bytes and its SHA-256."""


@dataclass(frozen=True)
class Made:
    """A complete and verified backup."""

    path: str
    bytes: int
    sha256: str
    revisions: tuple[str, ...]
    restore: str
    """The command that restores it into a new, empty database, without host, user and password."""


@dataclass(frozen=True)
class Archive:
    """A folder that keeps the newest `keep` backups of each database."""

    folder: Path
    keep: int
    ending: str = ".dump"

    def path(self, database: str, revisions: frozenset[str], at: datetime) -> Path:
        """Return the path of the backup that is taken at `at`."""
        revision = "+".join(map(_plain, sorted(revisions)))[:_LONGEST_REVISION] or "base"
        utc = at.astimezone(UTC)
        name = f"{_plain(database)}@{revision}@{utc:%Y%m%dT%H%M%S}.{utc.microsecond // 1000:03}Z{self.ending}"
        return self.folder.absolute() / name

    def prune(self, database: str, made: Sequence[Path], abandoned_seconds: float) -> None:
        """Remove the oldest backups beyond `keep`, except those that this run has `made`.

        A file counts as a backup only if its name matches and its checksum file names it. Partial files, which
        processes that died left behind, are removed `abandoned_seconds` after the last write.
        """
        before = time.time() - abandoned_seconds
        try:
            newest = sorted(filter(_has_checksum, self._named(database, "")), key=_taken_at, reverse=True)
            surplus = [path for path in newest[self.keep :] if path not in made]
            abandoned = [path for path in self._named(database, PARTIAL) if path.stat().st_mtime < before]
            for path in surplus + abandoned:
                path.unlink()
                path.with_name(path.name + CHECKSUM).unlink(missing_ok=True)
                log.info("Removed the old backup %s", path, extra={"event": "backup_removed"})
        except OSError as error:
            # not worth stopping the migration
            log.warning("Could not remove old backups: %s", error.strerror, extra={"event": "backup_kept"})

    def _named(self, database: str, ending: str) -> Iterator[Path]:
        ours = re.compile(rf"{re.escape(_plain(database))}@[^@]+@{_TIME}{re.escape(self.ending + ending)}")
        return (path for path in self.folder.absolute().iterdir() if ours.fullmatch(path.name) and _regular(path))


class Backup:
    """Takes backups into `archive`; `made` are those of this run, newest last.

    Raises `BackupFailed` if the path of its folder is not a folder.
    """

    restores_into: ClassVar[str]
    """Where `Made.restore` puts the data, for messages."""

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
                f"the backup did not finish within MIGRATION_BACKUP_SECONDS={self._seconds:g}; nothing was changed. To "
                "fix: raise MIGRATION_BACKUP_SECONDS"
            ) from error

    async def _keep(
        self, database: str, began: datetime, revisions: frozenset[str], copy: Copy, restore: Callable[[Path], str]
    ) -> Made:
        path = self._archive.path(database, revisions, began)
        log.info("Backing up %s to %s", database, path, extra={"event": "backup_started"})
        with _partial_file(path) as partial:
            size, sha256 = await copy(partial)
            _complete(partial, path, sha256)
        made = Made(str(path), size, sha256, tuple(sorted(revisions)), restore(path))
        self.made.append(made)
        log.info("Backed up: %s (%d bytes)", path, made.bytes, extra={"event": "backed_up"})
        return made

    def _record(self, connection: sa.Connection, made: Made, began: datetime) -> None:
        self._history.create(connection)
        self._history.backed_up(connection, self._author, ",".join(made.revisions) or "base", began, made.restore)
        connection.commit()

    def _prune(self, database: str) -> None:
        self._archive.prune(database, [Path(one.path) for one in self.made], self._seconds)


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Raise `BackupFailed` for an `OSError` of the block, which would otherwise mean that the connection is lost."""
    try:
        yield
    except OSError as error:
        raise BackupFailed(
            f"no backup can be written into {folder}: {error.strerror}; nothing was changed. To fix: make the folder "
            "writable, or name another one with --to or MIGRATION_BACKUP_DIR"
        ) from error


async def digest(path: Path) -> tuple[int, str]:
    """Return the size of a file in bytes, and its SHA-256."""
    size, sha256 = 0, hashlib.sha256()
    with writing(path.parent), path.open("rb") as file:
        # in pieces, so that the event loop can cancel it, and confirm the lock meanwhile
        while piece := await asyncio.to_thread(file.read, CHUNK_BYTES):
            sha256.update(piece)
            size += len(piece)
    return size, sha256.hexdigest()


def _refuse_no_folder(folder: Path) -> None:
    existing = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    if not existing.is_dir():
        raise BackupFailed(
            f"no backup can be written into {folder}: {existing} is not a folder; nothing was changed. To fix: name a "
            "folder with --to or MIGRATION_BACKUP_DIR"
        )


@contextmanager
def _partial_file(path: Path) -> Iterator[Path]:
    partial = path.with_name(path.name + PARTIAL)
    with writing(path.parent):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        # pg_dump and SQLite would create a file that every user can read
        os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    try:
        yield partial
    finally:
        partial.unlink(missing_ok=True)


def _complete(partial: Path, path: Path, sha256: str) -> None:
    # the checksum first, so that a file with the final name always has one
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


def _plain(text: str) -> str:
    return _UNUSUAL.sub(lambda found: "".join(f"%{byte:02X}" for byte in found[0].encode()), text)


def _regular(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _has_checksum(path: Path) -> bool:
    beside = path.with_name(path.name + CHECKSUM)
    return _regular(beside) and beside.read_text(errors="replace")[64:] == f"  {path.name}\n"


def _taken_at(path: Path) -> str:
    return path.name.rsplit("@", 1)[1]
