"""A backup under the lock, complete before anything is changed. Nothing is ever restored by itself.

The session that holds the lock does nothing while pg_dump runs, so it asks the server every second whether the lock is
still its own: that keeps the server from ending it (MIGRATION_IDLE_SECONDS still ends a process that was stopped), and
`unlock` from taking it for stuck. A lost lock ends pg_dump.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import shlex
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
import sqlalchemy as sa

from .archive import CHECKSUM, PARTIAL, Archive
from .connection import ANSWER_SECONDS, engine_over
from .dump import Tools
from .errors import BackupFailed, DirectConnectionNeeded
from .history import Author, History
from .libpq import environment
from .lock_manager import SessionLock, application_name
from .urls import DatabaseURL

log = logging.getLogger(__name__)

ASK_SECONDS = 1.0
CHUNK_BYTES = 4 * 1024 * 1024

T = TypeVar("T")


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
    """Takes backups into `archive`; `made` are those of this run, newest last."""

    def __init__(
        self,
        archive: Archive,
        seconds: float,
        url: DatabaseURL,
        version_table: str,
        history: History,
        author: Author,
        idle_seconds: float = 0.0,
    ) -> None:
        self.made: list[Made] = []
        self._archive = archive
        self._seconds = seconds
        self._url = url
        self._version_table = version_table
        self._history = history
        self._author = author
        self._ask_seconds = min(ASK_SECONDS, idle_seconds / 3 or ASK_SECONDS)

    async def take(self, lock: SessionLock, connection: asyncpg.Connection, revisions: frozenset[str]) -> None:
        """Back the database up, which is at `revisions`, while `connection` holds `lock`.

        Raises:
            BackupFailed: there is none; nothing was changed.
            DirectConnectionNeeded: a pooler is in between.
            HoldLost: the lock went meanwhile.
        """
        if lock.pooled:
            raise DirectConnectionNeeded(
                "no backup through a pooler: pg_dump needs one session for itself; set MIGRATION_DATABASE_URL to the "
                "database's direct endpoint (its own port, not the pooler's)"
            )
        limit = asyncio.timeout(self._seconds)
        try:
            async with limit:
                await self._take(lock, connection, revisions)
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise BackupFailed(
                f"the backup did not finish within MIGRATION_BACKUP_SECONDS={self._seconds:g}; nothing was changed; "
                "raise it"
            ) from error

    async def _take(self, lock: SessionLock, connection: asyncpg.Connection, revisions: frozenset[str]) -> None:
        name = application_name(lock.key, "backup", self._author.instance)
        tools = await Tools.find(connection.get_server_version().major, environment(connection, self._url, name))
        database, began = await connection.fetchrow(
            "SELECT current_database(), clock_timestamp()", timeout=ANSWER_SECONDS
        )
        path = self._archive.path(database, revisions, began)
        log.info("Backing up %s to %s", database, path, extra={"event": "backup_started"})
        with _files(path) as partial:
            dumped = self._dumped(tools, partial, revisions)
            size, sha256 = await _while_asking(dumped, lock.confirm, self._ask_seconds)
            _complete(partial, path, sha256)
        made = Made(str(path), size, sha256, tuple(sorted(revisions)), _restore(database, path))
        self.made.append(made)
        log.info("Backed up: %s (%d bytes)", path, made.bytes, extra={"event": "backed_up"})
        await self._record(connection, made, began)
        self._archive.prune(database, [Path(one.path) for one in self.made], self._seconds)

    async def _dumped(self, tools: Tools, partial: Path, revisions: frozenset[str]) -> tuple[int, str]:
        await tools.dump(partial)
        data = [line for line in await tools.contents(partial) if " TABLE DATA " in line]
        size, sha256 = await _digest(partial)
        # an empty database has nothing to list
        if not size or (revisions and not any(f" {self._version_table} " in line for line in data)):
            raise BackupFailed(f"pg_dump ended well, but its file ({size} bytes) has no data of {self._version_table}")
        return size, sha256

    async def _record(self, connection: asyncpg.Connection, made: Made, began: datetime) -> None:
        def write(given: sa.Connection) -> None:
            self._history.create(given)
            self._history.backed_up(given, self._author, ",".join(made.revisions) or "base", began, made.restore)
            given.commit()

        async with engine_over(connection, SessionLock.isolation_level).connect() as given:
            await given.run_sync(write)


@contextmanager
def _files(path: Path) -> Iterator[Path]:
    # what is not complete at the end, for whatever reason, is removed
    partial = path.with_name(path.name + PARTIAL)
    with _written(path.parent):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # pg_dump would make it readable by everybody
        os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    try:
        yield partial
    finally:
        partial.unlink(missing_ok=True)
        if not path.exists():
            path.with_name(path.name + CHECKSUM).unlink(missing_ok=True)


@contextmanager
def _written(folder: Path) -> Iterator[None]:
    # here, because anywhere else an operating system's error means that the connection is lost
    try:
        yield
    except OSError as error:
        raise BackupFailed(
            f"no backup can be written into {folder}: {error.strerror}; nothing was changed; make it writable, or name "
            "another folder with --to or MIGRATION_BACKUP_DIR"
        ) from error


def _complete(partial: Path, path: Path, sha256: str) -> None:
    # the checksum first: what bears the final name always has one
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
    with _written(path.parent):
        with os.fdopen(os.open(path.with_name(path.name + CHECKSUM), flags, 0o600), "w") as beside:
            beside.write(f"{sha256}  {path.name}\n")
        partial.rename(path)


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


async def _digest(path: Path) -> tuple[int, str]:
    size, digest = 0, hashlib.sha256()
    with _written(path.parent), path.open("rb") as file:
        # piece by piece, so that it can be cancelled, and the lock is asked after meanwhile
        while piece := await asyncio.to_thread(file.read, CHUNK_BYTES):
            digest.update(piece)
            size += len(piece)
    return size, digest.hexdigest()


def _restore(database: str, path: Path) -> str:
    into = f"{database}_restored"
    create = shlex.join(["createdb", "--template=template0", into])
    # createdb fails where the database exists: nothing can be restored over anything
    return f"{create} && {shlex.join(['pg_restore', '--exit-on-error', f'--dbname={into}', str(path)])}"
