"""MySQL and MariaDB: `GET_LOCK` on the session that runs the revisions.

* The lock ends with the session, and neither COMMIT nor DDL frees it. Its name is unique per server, not per database,
  so it contains the database's name.
* It is a lock of one server. If several servers accept writes (Galera, group replication with several primaries), use
  the strategy `redis`.
* DDL commits the open transaction and cannot be rolled back. So a revision that fails after DDL is half applied, and no
  instance continues until an operator has repaired it, unless it declares `idempotent = True`.
* If its client is killed, a statement continues in the server, and the session holds the lock until it ends.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import NullPool

from ...core.lock_key import LockKey
from ...core.status import Holder
from ...errors import ConfigurationError, HoldLost
from ...execution.limits import Limits
from ...execution.lock_retry import LockRetrySchedule
from ...urls.database_url import DatabaseURL
from ..sql_lock import ExclusiveLock
from .second_connection import SecondConnection
from .session_limits import longest_idle, refuse_several_statements, set_limits, whole


class MySQL:
    """A database on a server, and the lock of `key`."""

    lock_ends_with_connection = True

    def __init__(self, url: DatabaseURL, key: LockKey, limits: Limits, schedule: LockRetrySchedule) -> None:
        self._url = url
        self._key = key
        self._limits = limits
        self._schedule = schedule
        self._thread: int | None = None
        self.connecting = url.connecting

    async def connect(self) -> AsyncConnection:
        """Open a connection in autocommit."""
        url, options = self._url.sqlalchemy(), self._url.connect_args()
        if (password := await self._url.password()) is not None:
            options["password"] = password.encode()
        engine = create_async_engine(url, poolclass=NullPool, connect_args={**options, "cursor_cls": _quiet_cursor()})
        connection = await engine.connect()
        try:
            await connection.execution_options(isolation_level="AUTOCOMMIT")
            raw: Any = (await connection.get_raw_connection()).driver_connection
            self._thread = raw.thread_id()
            refuse_old_server(connection.dialect)
            await connection.run_sync(refuse_several_statements)
            # the server's default is a day
            wait = whole(self._limits.lock_timeout_seconds)
            await connection.exec_driver_sql(f"SET SESSION lock_wait_timeout = {wait}")
            await connection.rollback()
        except BaseException:
            await connection.close()
            raise
        return connection

    def lock(self, connection: AsyncConnection) -> NamedLock:
        """Return the lock for the session of `connection`."""
        return NamedLock(self._key, connection, self._limits, self._schedule, self._kill)

    async def abort(self) -> None:
        """KILL the session: a statement would continue without its client, and keep the lock."""
        if self._thread is not None:
            await self._kill(self._thread)

    async def _kill(self, thread: int) -> None:
        other = await self.connect()
        try:
            await other.exec_driver_sql(f"KILL {thread}")
        finally:
            await other.close()


class NamedLock(ExclusiveLock):
    """`GET_LOCK` of the key's name, held until `RELEASE_LOCK` or the end of the session."""

    transactional_ddl = False
    isolation_level = "READ COMMITTED"
    knows_instances = False

    def __init__(
        self,
        key: LockKey,
        connection: AsyncConnection,
        limits: Limits,
        schedule: LockRetrySchedule,
        kill: Callable[[int], Awaitable[None]],
    ) -> None:
        self._key = key
        self._name = key.channel
        self._connection = connection
        self._limits = limits
        self.schedule = schedule
        self._kill = kill
        self._id, self._database = 0, ""

    async def try_lock(self) -> bool:
        """Acquire the lock if it is free, and limit how long its session may be idle."""
        ask = sa.text("SELECT GET_LOCK(:name, 0) = 1, CONNECTION_ID(), DATABASE()")
        held, self._id, self._database = (await self._connection.execute(ask, {"name": self._name})).one()
        if held:
            # a process that is stopped between two statements loses its session, and with it the lock
            await self._connection.exec_driver_sql(f"SET SESSION wait_timeout = {longest_idle(self._limits)}")
        await self._connection.rollback()
        return bool(held)

    def second(self) -> SecondConnection:
        """Return what a run needs on a connection that env.py opens to the same database."""
        names = self._key.second.channel, self._name
        return SecondConnection(*names, self._id, self._database, self._limits, self.schedule, self._ask, self._kill)

    async def unlock(self) -> None:
        """Release the lock. Raises `HoldLost` if this session did not hold it."""
        if await self._ask("SELECT RELEASE_LOCK(:name)") != 1:
            raise HoldLost(
                f"the lock {self._name} was already released before unlock; a revision probably called "
                "RELEASE_ALL_LOCKS"
            )

    async def held(self) -> bool:
        """Return whether any session holds the lock."""
        return await self._ask("SELECT IS_USED_LOCK(:name)") is not None

    async def holder(self) -> Holder | None:
        """Return the connection that holds the lock, and its client if this user may see it."""
        number = await self._ask("SELECT IS_USED_LOCK(:name)")
        if number is None:
            return None
        seen = sa.text("SELECT host FROM information_schema.processlist WHERE id = :id")
        client = await self._connection.scalar(seen, {"id": number})
        await self._connection.rollback()
        return Holder(f"the client at {client}" if client else "unknown", int(number))

    def check_hold(self, connection: sa.Connection) -> None:
        """Raise `HoldLost` unless this session holds the lock: another instance may be migrating."""
        held = sa.text("SELECT IS_USED_LOCK(:name) = CONNECTION_ID()")
        if not connection.scalar(held, {"name": self._name}):
            raise HoldLost(
                f"this session lost the lock {self._name} during the run (RELEASE_ALL_LOCKS in a revision does that); "
                "the revision does not count as applied"
            )

    def set_limits(self, connection: sa.Connection, revision: str) -> None:
        """Limit how long the revision waits for a table or row, and on MariaDB how long one statement takes."""
        set_limits(connection, self.schedule.limits(revision), revision)

    async def _ask(self, sql: str) -> Any:
        answer = await self._connection.scalar(sa.text(sql), {"name": self._name})
        await self._connection.rollback()
        return answer


def refuse_old_server(dialect: Any) -> None:
    """Raise `ConfigurationError` for a server without expressions as defaults, which the history table needs."""
    needed, name = ((10, 2, 1), "MariaDB") if dialect.is_mariadb else ((8, 0, 13), "MySQL")
    found = dialect.server_version_info[:3]
    if found < needed:
        raise ConfigurationError(
            f"the server is {name} {'.'.join(map(str, found))}; {'.'.join(map(str, needed))} or newer is needed"
        )


def _quiet_cursor() -> type[Any]:
    # asyncmy logs the server's warnings, which quote names and values
    from asyncmy.cursors import Cursor

    class QuietCursor(Cursor):  # type: ignore[misc, unused-ignore]
        async def _show_warnings(self, conn: object) -> None:
            return

    return QuietCursor
