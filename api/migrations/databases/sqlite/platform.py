"""SQLite: a lock file beside the database, and transactions that are really one.

The lock is the operating system's (`flock`) on a file next to the database's own. It ends with the process that holds
it, whatever ends that, so there is nothing to expire and nothing to clean up; it serves several processes on one host,
which is all that SQLite itself does. The file is never removed: whoever removed it would give the next one another file
to lock.

A process that is stopped (SIGSTOP) keeps the lock. Nobody takes it over, because nothing would keep the stopped one
from going on; those who wait give up at the end of their budget and name it.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import sqlite3
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import NullPool

from ...core.lock_key import LockKey
from ...core.status import Holder
from ...errors import DatabaseUnreachable, HoldLost
from ...execution.limits import Limits
from ...execution.lock_retry import LockRetrySchedule
from ...urls.database_url import DatabaseURL
from .foreign_keys import ForeignKeys
from .lock_file import lock_file, locked, open_lock

LONGEST_WAIT_SECONDS = 5.0
INSTRUCTIONS = 20_000
"""Of SQLite's machine, between two looks whether to go on: some hundred a second."""


class Sqlite:
    """A database file, and the lock beside it."""

    lock_ends_with_connection = False

    def __init__(
        self,
        url: DatabaseURL,
        key: LockKey,
        limits: Limits,
        schedule: LockRetrySchedule,
        instance: str,
        *,
        create_file: bool = True,
    ) -> None:
        self._url = url.sqlalchemy()
        self._path = Path(url.database)
        self._create_file = create_file
        self._lock_file = lock_file(Path(url.database), key)
        self._limits = limits
        self._schedule = schedule
        self._instance = instance
        self._driver: Any = None
        self._aborted = False

    async def connect(self) -> AsyncConnection:
        """A connection in autocommit; the file is made if it is not there, by who `create_file`.

        Raises:
            DatabaseUnreachable: it is not there, and this one does not make it.
        """
        await asyncio.to_thread(self._try_to_open)
        engine = create_async_engine(
            self._url, poolclass=NullPool, connect_args={"timeout": _busy_seconds(self._limits.lock_timeout_seconds)}
        )
        # not by its event "begin": where that raises, SQLAlchemy begins no transaction on this connection any more
        engine.sync_engine.dialect.do_begin = _begin  # type: ignore[method-assign, assignment]
        connection = await engine.connect()
        try:
            await self._prepare(connection)
        except BaseException:
            await connection.close()
            raise
        return connection

    def lock(self, connection: AsyncConnection) -> FileLock:
        """The lock beside the file."""
        return FileLock(self._lock_file, self._path, self._schedule, self._instance)

    async def abort(self) -> None:
        """Interrupt the statement that is at work or about to be, and roll back.

        Closing alone would not: a cursor that something still refers to keeps the transaction open. The rollback is
        the driver's next job before anything is awaited here, so what was cancelled cannot execute another statement.
        """
        self._aborted = True
        await self._driver.interrupt()
        await self._driver.rollback()

    def _try_to_open(self) -> None:
        # where the asynchronous driver fails to open it, its thread outlives the loop that it answers to
        if not self._create_file and not self._path.exists():
            raise DatabaseUnreachable(
                f"there is no SQLite file {self._path.name} where the URL says; correct its path, or let "
                "'./migrate.sh upgrade' make the file"
            )
        try:
            with closing(sqlite3.connect(self._path)):
                pass
        except sqlite3.Error as error:
            raise sa.exc.OperationalError(None, None, error) from error

    async def _prepare(self, connection: AsyncConnection) -> None:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        self._driver = (await connection.get_raw_connection()).driver_connection
        self._aborted = False
        await self._driver.set_progress_handler(lambda: self._aborted, INSTRUCTIONS)


class FileLock:
    """`flock` on the file at `path`, in which the holder writes down who it is."""

    transaction_scoped = False
    transactional_ddl = True
    isolation_level = "SERIALIZABLE"
    knows_instances = True

    def __init__(self, path: Path, database: Path, schedule: LockRetrySchedule, instance: str) -> None:
        self._path = path
        self._database = database
        self._schedule = schedule
        self._instance = instance
        self._file: int | None = None
        self._foreign_keys = ForeignKeys()

    async def try_lock(self) -> bool:
        """Take the lock if it is free."""
        file = open_lock(self._path, self._database)
        try:
            taken = locked(file, fcntl.LOCK_EX) and self._is_there(file)
        except BaseException:
            os.close(file)
            raise
        if not taken:
            os.close(file)
            return False
        self._file = file
        self._tell({"instance": self._instance, "pid": os.getpid(), "since": time.time()}, file)
        return True

    async def unlock(self) -> None:
        """Give it back.

        Raises:
            HoldLost: somebody removed the file meanwhile, so that another may have been locked.
        """
        try:
            self._confirm()
        finally:
            self.forget()

    async def held(self) -> bool:
        """Whether any process holds it."""
        return await self.holder() is not None

    async def holder(self) -> Holder | None:
        """Who wrote down its name last, if the lock is taken."""
        try:
            file = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            return None
        try:
            if self._file is None and locked(file, fcntl.LOCK_SH):
                return None
            return _holder(os.pread(file, 4096, 0))
        finally:
            os.close(file)

    def forget(self) -> None:
        """Give it back without looking."""
        file, self._file = self._file, None
        if file is not None:
            self._tell({}, file)
            os.close(file)

    def check_hold(self, connection: sa.Connection) -> None:
        """Make sure that the file is still the one that is locked.

        Raises:
            HoldLost: it is not.
        """
        self._confirm()

    def check_constraints(self, connection: sa.Connection) -> None:
        """Foreign keys, before COMMIT."""
        self._foreign_keys.check(connection)

    def invalid_indexes(self, connection: sa.Connection) -> frozenset[str]:
        """Return none: this database has no INVALID indexes."""
        return frozenset()

    def set_limits(self, connection: sa.Connection, revision: str) -> None:
        """How long the revision waits for whoever writes; and what is broken already, and not its fault."""
        self._foreign_keys.remember(connection)
        limits = self._schedule.limits(revision)
        limits.warn_of_no_statement_timeout("SQLite", revision)
        seconds = _busy_seconds(limits.lock_timeout_seconds)
        connection.exec_driver_sql(f"PRAGMA busy_timeout = {round(seconds * 1000)}")

    def roll_back(self, connection: sa.Connection) -> bool:
        """Roll back what a failed revision left open."""
        connection.rollback()
        return True

    def commit_record(self, connection: sa.Connection) -> None:
        """Commit what was written after `roll_back`."""
        connection.commit()

    def _tell(self, who: dict[str, Any], file: int) -> None:
        # for people: who may only read the file is known by no name, and by no other's
        with suppress(OSError):
            os.ftruncate(file, 0)
            os.pwrite(file, json.dumps(who).encode(), 0)

    def _confirm(self) -> None:
        if self._file is None or not self._is_there(self._file):
            raise HoldLost(f"the lock file {self._path.name} was removed while it was locked; leave it alone")

    def _is_there(self, file: int) -> bool:
        with suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(file), self._path.stat())
        return False


def _begin(connection: Any) -> None:
    # Python's driver begins late, at the first row that is changed: DDL before that would be committed by itself. And
    # IMMEDIATE, because a transaction that has read first cannot become a writing one while somebody else writes.
    if connection.isolation_level is not None:  # None is autocommit
        connection.cursor().execute("BEGIN IMMEDIATE")


def _busy_seconds(seconds: float) -> float:
    # nothing interrupts SQLite while it waits; waiting stalls nobody, and is begun again
    return min(seconds, LONGEST_WAIT_SECONDS) or LONGEST_WAIT_SECONDS


def _holder(text: bytes) -> Holder:
    try:
        told: dict[str, Any] = json.loads(text)
        return Holder(str(told["instance"]), int(told["pid"]), float(told["since"]))
    except (ValueError, KeyError, TypeError):
        # locked a moment ago, and not yet written
        return Holder("unknown", 0)
