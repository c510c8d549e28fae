"""The lock file's lock for revisions on a connection that `env.py` opens.

Process, lock and connection end together, so there is no second lock. The connection must be to the locked file, and it
gets the transactions, the limits and the checks of the session that holds the lock.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from ...errors import ForeignConnection
from ..second_connection import SecondSession
from ..sql_lock import SqlRunLock
from .transaction import INSTRUCTIONS, begin

if TYPE_CHECKING:
    from .platform import FileLock


class SecondConnection(SecondSession, SqlRunLock):
    """A `SecondSession` and its `ReleasableLock`: the lock `held` beside the file `database`.

    Before the first revision a statement waits `wait_seconds` for another writer.
    """

    transactional_ddl = True
    idle_seconds = 0.0

    def __init__(self, held: FileLock, database: Path, wait_seconds: float) -> None:
        self.schedule = held.schedule
        self._held = held
        self._database = database
        self._wait_seconds = wait_seconds
        self._ended = False
        self._begin = "BEGIN"
        self._given: tuple[Any, int] | None = None
        """What `env.py` had set: how its dialect begins a transaction, and the busy timeout in milliseconds."""

    def acquire(self, connection: sa.Connection) -> SecondConnection:
        """Check the file and the transactions of `connection`, and limit how long it waits for another writer."""
        self._held.lent = True
        try:
            self._secure(connection)
        except BaseException:
            self.release(connection)
            raise
        return self

    def release(self, connection: sa.Connection) -> None:
        """Set back what `env.py` had set, because a pool may keep the connection."""
        self._held.lent = False
        given, self._given = self._given, None
        if given is None:
            return
        connection.dialect.do_begin, busy_milliseconds = given  # type: ignore[method-assign]
        if connection.closed or connection.invalidated:
            return
        connection.rollback()
        _interrupt_if(connection, None)
        _pragma(connection, f"busy_timeout = {busy_milliseconds}")

    async def beat(self) -> None:
        """Do nothing: no server ends a connection."""

    async def end(self) -> None:
        """Interrupt the current statement."""
        self._ended = True

    def check_hold(self, connection: sa.Connection) -> None:
        """Raise `HoldLost` if the lock file is no longer the locked one."""
        self._held.check_hold(connection)

    def check_constraints(self, connection: sa.Connection) -> None:
        """Check the foreign keys, before COMMIT."""
        self._held.check_constraints(connection)

    def set_limits(self, connection: sa.Connection, revision: str) -> None:
        """Limit how long the revision waits for another writer, and count the violated foreign keys before it."""
        self._held.set_limits(connection, revision)

    def _secure(self, connection: sa.Connection) -> None:
        dialect: Any = connection.dialect
        self._given = dialect.do_begin, _pragma(connection, "busy_timeout")[0][0]
        driver, before = connection.connection.driver_connection, dialect.do_begin
        # only for this connection: a revision may open another one to read
        dialect.do_begin = lambda each: begin(each, self._begin) if each.driver_connection is driver else before(each)
        self._refuse_unsafe(connection)
        self._begin = "BEGIN IMMEDIATE"
        _pragma(connection, f"busy_timeout = {round(self._wait_seconds * 1000)}")
        _interrupt_if(connection, lambda: self._ended)

    def _refuse_unsafe(self, connection: sa.Connection) -> None:
        files = {row[1]: row[2] for row in connection.exec_driver_sql("PRAGMA database_list")}
        driver: Any = connection.connection.driver_connection
        in_transaction = driver.in_transaction
        connection.rollback()
        if not _same_file(files["main"], self._database):
            raise ForeignConnection(
                f"env.py connects to the SQLite file {files['main'] or ':memory:'}, but this instance has locked "
                f"{self._database}. To fix: let env.py use the same URL as DATABASE_URL"
            )
        if not in_transaction:
            raise ForeignConnection(
                "env.py opens its connection in autocommit, so a failed revision could not be rolled back. To fix: "
                "remove isolation_level='AUTOCOMMIT' from its engine"
            )


def _same_file(one: str, other: Path) -> bool:
    with suppress(OSError):
        return other.samefile(one)
    return False


def _pragma(connection: sa.Connection, text: str) -> list[Any]:
    # not through SQLAlchemy, which would begin a transaction
    cursor = connection.connection.cursor()
    try:
        cursor.execute(f"PRAGMA {text}")
        return list(cursor.fetchall())
    finally:
        cursor.close()


def _interrupt_if(connection: sa.Connection, is_ended: Any) -> None:
    driver: Any = connection.connection.dbapi_connection
    if connection.dialect.is_async:
        driver.run_async(lambda raw: raw.set_progress_handler(is_ended, INSTRUCTIONS))
    else:
        driver.set_progress_handler(is_ended, INSTRUCTIONS)
