"""SQLite: a lock file beside the database, and a transaction that includes DDL.

The lock is the operating system's (`flock`) on that file. It ends with the process that holds it, so it needs neither
expiry nor cleanup, and serves the processes of one host, as SQLite does. The file is never removed: otherwise the next
instance would lock another file.

A stopped process (SIGSTOP) keeps the lock. No instance takes it over, because the stopped one may resume; a waiter
gives up when its budget ends, and names the holder.
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
from ...errors import COMMAND, DatabaseUnreachable, HoldLost
from ...execution.limits import Limits
from ...execution.lock_retry import LockRetrySchedule
from ...urls.database_url import DatabaseURL
from ..sql_lock import ExclusiveLock
from .foreign_keys import ForeignKeys
from .lock_file import lock_file, locked, open_lock
from .second_connection import SecondConnection
from .transaction import INSTRUCTIONS, begin, busy_seconds


class Sqlite:
    """A database file, and the lock file beside it."""

    lock_ends_with_connection = False
    connecting = "connecting"

    def __init__(
        self,
        url: DatabaseURL,
        key: LockKey,
        limits: Limits,
        schedule: LockRetrySchedule,
        instance: str,
        *,
        create_file: bool,
    ) -> None:
        self._url = url.sqlalchemy()
        self._path = Path(url.database)
        self._create_file = create_file
        self._lock_file = lock_file(self._path, key)
        self._wait_seconds = busy_seconds(limits.lock_timeout_seconds)
        self._schedule = schedule
        self._instance = instance
        self._driver: Any = None
        self._aborted = False

    async def connect(self) -> AsyncConnection:
        """Open a connection in autocommit. Raises `DatabaseUnreachable` for a missing file, unless `create_file`."""
        await asyncio.to_thread(self._try_to_open)
        engine = create_async_engine(self._url, poolclass=NullPool, connect_args={"timeout": self._wait_seconds})
        # not by its event "begin": after an error there, SQLAlchemy begins no more transactions on the connection
        engine.sync_engine.dialect.do_begin = begin  # type: ignore[method-assign, assignment]
        connection = await engine.connect()
        try:
            await self._prepare(connection)
        except BaseException:
            await connection.close()
            raise
        return connection

    def lock(self, connection: AsyncConnection) -> FileLock:
        """Return the lock on the lock file."""
        return FileLock(self._lock_file, self._path, self._schedule, self._wait_seconds, self._instance)

    async def abort(self) -> None:
        """Interrupt the current or next statement, and roll back.

        Closing is not enough: a cursor that is still referenced keeps the transaction open. The rollback is queued in
        the driver before this method awaits, so the cancelled run cannot execute another statement.
        """
        self._aborted = True
        await self._driver.interrupt()
        await self._driver.rollback()

    def _try_to_open(self) -> None:
        # if the asynchronous driver cannot open the file, its thread outlives its event loop
        if not self._create_file and not self._path.exists():
            raise DatabaseUnreachable(
                f"the SQLite file {self._path.name} of the URL does not exist. To fix: correct its path, or let "
                f"'{COMMAND} upgrade' create the file"
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


class FileLock(ExclusiveLock):
    """`flock` on the file at `path`, into which the holder writes its name."""

    transactional_ddl = True
    isolation_level = "SERIALIZABLE"
    knows_instances = True

    def __init__(
        self, path: Path, database: Path, schedule: LockRetrySchedule, wait_seconds: float, instance: str
    ) -> None:
        self._path = path
        self._database = database
        self.schedule = schedule
        self._wait_seconds = wait_seconds
        self._instance = instance
        self._file: int | None = None
        self.lent = False
        """Whether a connection of env.py runs revisions under this lock."""
        self._foreign_keys = ForeignKeys()

    async def try_lock(self) -> bool:
        """Acquire the lock if it is free."""
        file = open_lock(self._path, self._database)
        try:
            acquired = locked(file, fcntl.LOCK_EX) and self._is_current(file)
        except BaseException:
            os.close(file)
            raise
        if not acquired:
            os.close(file)
            return False
        self._file = file
        _write_holder(file, {"instance": self._instance, "pid": os.getpid(), "since": time.time()})
        return True

    async def unlock(self) -> None:
        """Release the lock. Raises `HoldLost` if the file was removed: another instance may hold a new one."""
        try:
            self._confirm()
        finally:
            self.forget()

    def second(self) -> SecondConnection:
        """Return what a run needs on a connection that env.py opens to the same file."""
        return SecondConnection(self, self._database, self._wait_seconds)

    async def holder(self) -> Holder | None:
        """Return the holder by the content of the file, if the lock is held."""
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
        """Release the lock without checking the file.

        If a cancelled revision on a connection of env.py has not ended, the file stays locked until the process ends.
        """
        file, self._file = self._file, None
        if file is not None and not self.lent:
            _write_holder(file, {})
            os.close(file)

    def check_hold(self, connection: sa.Connection) -> None:
        """Raise `HoldLost` if the lock file is no longer the locked one."""
        self._confirm()

    def check_constraints(self, connection: sa.Connection) -> None:
        """Check the foreign keys, before COMMIT."""
        self._foreign_keys.check(connection)

    def set_limits(self, connection: sa.Connection, revision: str) -> None:
        """Limit how long the revision waits for another writer, and count the violated foreign keys before it."""
        self._foreign_keys.remember(connection)
        limits = self.schedule.limits(revision)
        limits.warn_of_no_statement_timeout("SQLite", revision)
        seconds = busy_seconds(limits.lock_timeout_seconds)
        connection.exec_driver_sql(f"PRAGMA busy_timeout = {round(seconds * 1000)}")

    def _confirm(self) -> None:
        if self._file is None or not self._is_current(self._file):
            raise HoldLost(f"the lock file {self._path.name} was removed while it was locked. To fix: never remove it")

    def _is_current(self, file: int) -> bool:
        with suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(file), self._path.stat())
        return False


def _holder(text: bytes) -> Holder:
    try:
        holder: dict[str, Any] = json.loads(text)
        return Holder(str(holder["instance"]), int(holder["pid"]), float(holder["since"]))
    except (ValueError, KeyError, TypeError):
        # locked, but not yet written
        return Holder("unknown", 0)


def _write_holder(file: int, holder: dict[str, Any]) -> None:
    # only for messages: a holder that may not write the file has no name
    with suppress(OSError):
        os.ftruncate(file, 0)
        os.pwrite(file, json.dumps(holder).encode(), 0)
