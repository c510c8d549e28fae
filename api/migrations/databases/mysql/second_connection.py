"""The second named lock: on the connection that `env.py` opens, while another session holds the first.

The session that runs the DDL must hold a lock itself. If the process dies, its first session ends at once, but a
statement of the other one runs on in the server. The next holder of the first lock cannot acquire the second one before
that statement has ended, so two sessions never run revisions at once.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Any

import sqlalchemy as sa

from ...errors import DatabaseUnreachable, ForeignConnection, HoldLost
from ...execution.limits import Limits
from ...execution.lock_retry import LockRetrySchedule
from ..second_connection import SecondSession
from ..sql_lock import SqlRunLock
from .session_limits import is_mariadb, longest_idle, refuse_several_statements, set_limits, whole

_WHERE = sa.text(
    "SELECT CONNECTION_ID() AS number, DATABASE() AS here, IS_USED_LOCK(:first) AS holder, "
    "@@SESSION.autocommit AS autocommit"
)
_LIMITS = ("lock_wait_timeout", "innodb_lock_wait_timeout", "wait_timeout")


class SecondConnection(SecondSession, SqlRunLock):
    """A `SecondSession`, and its `ReleasableLock`: the lock called `name`.

    Args:
        name: of the second lock.
        first: the name of the first lock.
        first_id: the number of the session that holds it.
        database: the one of that session.
        limits: of the session.
        schedule: the lock timeouts of each revision's attempts.
        ask_first: executes a statement on the first session.
        kill: ends a session by its number.
    """

    transactional_ddl = False

    def __init__(
        self,
        name: str,
        first: str,
        first_id: int,
        database: str,
        limits: Limits,
        schedule: LockRetrySchedule,
        ask_first: Callable[[str], Awaitable[Any]],
        kill: Callable[[int], Awaitable[None]],
    ) -> None:
        self._names = {"first": first, "second": name}
        self._first_id = first_id
        self._database = database
        self._limits = limits
        self.schedule = schedule
        self._ask_first = ask_first
        self._kill = kill
        self._id: int | None = None
        self._given: dict[str, Any] = {}
        """The limits that `env.py` or the server had set."""
        self.idle_seconds = longest_idle(limits)

    def acquire(self, connection: sa.Connection) -> SecondConnection:
        """Acquire the second lock on `connection` and limit its session; no transaction is open afterwards."""
        number = self._refuse_unsafe(connection)
        refuse_several_statements(connection)
        if connection.scalar(sa.text("SELECT GET_LOCK(:second, 0)"), self._names) != 1:
            connection.rollback()
            raise DatabaseUnreachable("another session, probably of an instance that died, still runs revisions")
        self._id = number
        names = [*_LIMITS, "max_statement_time"] if is_mariadb(connection) else list(_LIMITS)
        values = connection.exec_driver_sql("SELECT " + ", ".join(f"@@SESSION.{name}" for name in names)).one()
        self._given = dict(zip(names, values, strict=True))
        wait = whole(self._limits.lock_timeout_seconds)
        connection.exec_driver_sql(
            f"SET SESSION lock_wait_timeout = {wait}, innodb_lock_wait_timeout = {wait}, "
            f"wait_timeout = {math.ceil(self.idle_seconds)}"
        )
        connection.rollback()
        return self

    def release(self, connection: sa.Connection) -> None:
        """Release the lock and set the limits back, because a pool may keep the connection."""
        self._id = None
        if connection.closed or connection.invalidated:
            return
        connection.rollback()
        connection.execute(sa.text("SELECT RELEASE_LOCK(:second)"), self._names)
        limits = ", ".join(f"{name} = {value}" for name, value in self._given.items())
        connection.exec_driver_sql(f"SET SESSION {limits}")
        connection.rollback()

    async def beat(self) -> None:
        """Execute a statement on the first session."""
        await self._ask_first("SELECT 1")

    async def end(self) -> None:
        """KILL the second session: a statement would continue without its client."""
        if self._id is not None:
            await self._kill(self._id)

    def check_hold(self, connection: sa.Connection) -> None:
        """Raise `HoldLost` unless this session holds the second lock, and the other one the first."""
        held = sa.text("SELECT IS_USED_LOCK(:first) = :id, IS_USED_LOCK(:second) = CONNECTION_ID()")
        first, second = connection.execute(held, {**self._names, "id": self._first_id}).one()
        if not (first and second):
            raise HoldLost(
                f"the session lost the lock {self._names['second' if first else 'first']} during the run "
                "(RELEASE_ALL_LOCKS in a revision does that); the revision does not count as applied"
            )

    def set_limits(self, connection: sa.Connection, revision: str) -> None:
        """Limit how long the revision waits for a table or row, and on MariaDB how long one statement takes."""
        set_limits(connection, self.schedule.limits(revision), revision)

    def _refuse_unsafe(self, connection: sa.Connection) -> int:
        """Return the number of the session, unless it is one in autocommit or in another database."""
        row = connection.execute(_WHERE, self._names).one()
        connection.rollback()
        if row.holder != self._first_id or row.here != self._database:
            raise ForeignConnection(
                f"env.py connects to the database {row.here!r}, where this instance holds no lock. To fix: let env.py "
                "use the same URL as DATABASE_URL, or set MIGRATION_DATABASE_URL to the one that env.py uses"
            )
        if row.autocommit:
            raise ForeignConnection(
                "env.py opens its connection in autocommit, so a failed revision could not be rolled back. To fix: "
                "remove isolation_level='AUTOCOMMIT' from its engine"
            )
        return int(row.number)
