"""MySQL and MariaDB: `GET_LOCK` on the session that runs the revisions.

* The lock belongs to the session and ends with it, as PostgreSQL's does, and neither COMMIT nor DDL frees it. Its name
  is the server's, not the database's, so the database's name is in it.
* It is a lock of one server. Where several accept writes (Galera, group replication with several primaries), it says
  nothing about the others: there the strategy `redis` decides who tries.
* DDL cannot be rolled back, and commits what is open. A revision that did not finish is therefore half applied as soon
  as it has executed any, and nobody goes on before a person has looked, unless it declares `idempotent = True`.
* A statement goes on in the server when its client is killed, and the session keeps the lock until it has ended.
"""

from __future__ import annotations

import math
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.mysql.base import MySQLDialect
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import NullPool

from ...core.status import Holder
from ...errors import ConfigurationError, HoldLost
from ...execution.limits import Limits
from ...execution.lock_retry import LockRetrySchedule
from ...urls.database_url import DatabaseURL

COM_SET_OPTION, MULTI_STATEMENTS_OFF = 0x1B, b"\x01\x00"
"""Of the client/server protocol."""


class MySQL:
    """A database on a server, and the lock of the given name there."""

    lock_ends_with_connection = True

    def __init__(self, url: DatabaseURL, name: str, limits: Limits, schedule: LockRetrySchedule) -> None:
        self._url = url
        self._name = name
        self._limits = limits
        self._schedule = schedule
        self._thread: int | None = None

    async def connect(self) -> AsyncConnection:
        """A connection in autocommit."""
        url, options = self._url.sqlalchemy(), self._url.connect_args()
        engine = create_async_engine(url, poolclass=NullPool, connect_args={**options, "cursor_cls": _quiet_cursor()})
        connection = await engine.connect()
        try:
            await connection.execution_options(isolation_level="AUTOCOMMIT")
            raw: Any = (await connection.get_raw_connection()).driver_connection
            self._thread = raw.thread_id()
            refuse_old_server(connection.dialect)
            await _one_statement_at_a_time(raw)
            # the server's own limit is a day
            queue = _whole(self._limits.lock_timeout_seconds)
            await connection.exec_driver_sql(f"SET SESSION lock_wait_timeout = {queue}")
            await connection.rollback()
        except BaseException:
            await connection.close()
            raise
        return connection

    def lock(self, connection: AsyncConnection) -> NamedLock:
        """The lock, for the session of `connection`."""
        return NamedLock(self._name, connection, self._limits, self._schedule)

    async def abort(self) -> None:
        """End the session in the server: a statement would go on without its client, and keep the lock."""
        ours = self._thread
        other = await self.connect()
        try:
            await other.exec_driver_sql(f"KILL {ours}")
        finally:
            await other.close()


class NamedLock:
    """`GET_LOCK` of a name, held until `RELEASE_LOCK` or the end of the session."""

    transaction_scoped = False
    transactional_ddl = False
    isolation_level = "READ COMMITTED"
    knows_instances = False

    def __init__(self, name: str, connection: AsyncConnection, limits: Limits, schedule: LockRetrySchedule) -> None:
        self._name = name
        self._connection = connection
        self._limits = limits
        self._schedule = schedule

    async def try_lock(self) -> bool:
        """Take the lock if it is free, and give the session the holder's settings."""
        held: bool = await self._ask("SELECT GET_LOCK(:name, 0)") == 1
        if held:
            # the lease: a process that was stopped between two statements loses its session, and with it the lock
            idle = math.ceil(self._limits.idle_seconds) or 7 * 86400
            await self._connection.exec_driver_sql(f"SET SESSION wait_timeout = {idle}")
            await self._connection.rollback()
        return held

    async def unlock(self) -> None:
        """Give it back.

        Raises:
            HoldLost: the server says that this session did not hold it.
        """
        if await self._ask("SELECT RELEASE_LOCK(:name)") != 1:
            raise HoldLost(f"the lock {self._name} was gone before it was given back; a revision freed it")

    async def held(self) -> bool:
        """Whether any session holds it."""
        return await self._ask("SELECT IS_USED_LOCK(:name)") is not None

    async def holder(self) -> Holder | None:
        """The connection that holds it, and where it comes from, as far as this user may see."""
        number = await self._ask("SELECT IS_USED_LOCK(:name)")
        if number is None:
            return None
        seen = sa.text("SELECT host FROM information_schema.processlist WHERE id = :id")
        client = await self._connection.scalar(seen, {"id": number})
        await self._connection.rollback()
        return Holder(f"the client at {client}" if client else "unknown", int(number))

    def forget(self) -> None:
        """Nothing: the lock went with the session."""

    def check_hold(self, connection: sa.Connection) -> None:
        """Make sure that this very session holds the lock.

        Raises:
            HoldLost: it does not, so another instance may be migrating at this moment.
        """
        held = sa.text("SELECT IS_USED_LOCK(:name) = CONNECTION_ID()")
        if not connection.scalar(held, {"name": self._name}):
            raise HoldLost(
                f"this session lost the lock {self._name} in mid-run (RELEASE_ALL_LOCKS in a revision does that); the "
                "revision is not counted as applied"
            )

    def check_constraints(self, connection: sa.Connection) -> None:
        """Nothing to do: nothing is deferred."""

    def invalid_indexes(self, connection: sa.Connection) -> frozenset[str]:
        """Return none: this database has no INVALID indexes."""
        return frozenset()

    def set_limits(self, connection: sa.Connection, revision: str) -> None:
        """How long the revision may queue for a table or row, and how long one statement may take."""
        limits = self._schedule.limits(revision)
        queue = _whole(limits.lock_timeout_seconds)
        connection.exec_driver_sql(f"SET SESSION lock_wait_timeout = {queue}, innodb_lock_wait_timeout = {queue}")
        if isinstance(connection.dialect, MySQLDialect) and connection.dialect.is_mariadb:
            connection.exec_driver_sql(f"SET SESSION max_statement_time = {limits.statement_timeout_seconds:f}")
        else:
            limits.warn_of_no_statement_timeout("MySQL", revision)

    def roll_back(self, connection: sa.Connection) -> bool:
        """Roll back what a failed revision left open; where the session is gone, so is the lock."""
        if connection.invalidated:
            return False
        connection.rollback()
        return True

    def commit_record(self, connection: sa.Connection) -> None:
        """Commit what was written after `roll_back`."""
        connection.commit()

    async def _ask(self, sql: str) -> Any:
        answer = await self._connection.scalar(sa.text(sql), {"name": self._name})
        await self._connection.rollback()
        return answer


def _whole(seconds: float) -> int:
    # whole seconds, and no 0 for "no limit"
    return math.ceil(seconds) or 31_536_000


def refuse_old_server(dialect: Any) -> None:
    """Raise `ConfigurationError` for a server that lacks what the history needs."""
    # the history's defaults are expressions
    needed, name = ((10, 2, 1), "MariaDB") if dialect.is_mariadb else ((8, 0, 13), "MySQL")
    found = dialect.server_version_info[:3]
    if found < needed:
        raise ConfigurationError(
            f"the server is {name} {'.'.join(map(str, found))}; {'.'.join(map(str, needed))} or newer is needed"
        )


async def _one_statement_at_a_time(raw: Any) -> None:
    # asyncmy asks for several in one, and nobody would read what becomes of the second; it has no option for it
    await raw._execute_command(COM_SET_OPTION, MULTI_STATEMENTS_OFF)
    await raw.read_packet()


def _quiet_cursor() -> type[Any]:
    # asyncmy writes the server's warnings into the log, and they quote names and values
    from asyncmy.cursors import Cursor

    class QuietCursor(Cursor):  # type: ignore[misc, unused-ignore]
        async def _show_warnings(self, conn: object) -> None:
            return

    return QuietCursor
