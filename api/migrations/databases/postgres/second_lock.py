"""The second advisory lock: on the connection that `alembic/env.py` opened, while another session holds the first.

The session that runs the DDL must hold a lock itself. If the process dies, its first session ends at once, but a
statement of the other one runs on in the server until the server notices. The next holder of the first lock cannot
acquire the second one before that, so two sessions never run revisions at once.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from ...core.lock_key import LockKey
from ...errors import DatabaseUnreachable, DirectConnectionNeeded, ForeignConnection, HoldLost
from ...execution.dialects import stores
from ...execution.limits import Limits, lift_limits_where_no_session_is_blocked
from ...execution.lock_retry import LockRetrySchedule
from ...lock_manager import HELD, RunLock
from .lock_watcher import Observer

_WHERE = """
    SELECT pg_backend_pid() AS pid, pg_is_in_recovery() AS standby, current_database() AS database,
           current_setting('server_encoding') AS encoding,
           EXISTS (SELECT 1 {first} AND pid = :first_pid) AS sees_first
"""
_PROBE = "migrations.in_transaction"


class SecondLock(RunLock):
    """A `MigrationLock` on a connection that `env.py` opened.

    Args:
        key: the first lock's key.
        first_pid: the session that holds the first lock.
        schedule: the lock timeouts of each revision's attempts.
        limits: of the session.
        name: the `application_name` of the session.
        observer: watches the statements.
    """

    def __init__(
        self,
        key: LockKey,
        first_pid: int,
        schedule: LockRetrySchedule,
        limits: Limits,
        name: str,
        observer: Observer,
    ) -> None:
        super().__init__(schedule, key.channel)
        self._first = key
        self.key = key.second
        """The second lock's key."""
        self._first_pid = first_pid
        first = HELD.format(high=key.high, low=key.low) + f" AND pid = {first_pid}"
        second = HELD.format(high=self.key.high, low=self.key.low) + " AND pid = pg_backend_pid()"
        self._held = f"EXISTS (SELECT {first})", f"EXISTS (SELECT {second})"
        self.holds = " AND ".join(self._held)
        self._settings = {"application_name": name, **limits.server_settings(), **limits.lease()}
        self._observer = observer
        self.pid: int | None = None
        """The session's process id in the server; None while there is no connection."""

    def acquire(self, connection: sa.Connection) -> SecondLock:
        """Acquire the second lock on `connection` and set its limits; no transaction is open afterwards.

        Raises:
            ForeignConnection: it is a connection to another database, or one in autocommit.
            DirectConnectionNeeded: it goes through a transaction pooler.
            DatabaseUnreachable: the session of a dead process still holds the lock; may be retried.
        """
        self._refuse_other_database(connection)
        self._refuse_autocommit(connection)
        # before the lock, whose holder other instances know by its application_name
        self._set(connection)
        if not connection.scalar(sa.text("SELECT pg_try_advisory_lock(:key)"), {"key": self.key.value}):
            self._set_back(connection)
            raise DatabaseUnreachable("another session, probably of an instance that died, still runs revisions")
        connection.commit()
        for listen in (lift_limits_where_no_session_is_blocked, self._observer.listen):
            listen(connection)
        return self

    def release(self, connection: sa.Connection) -> None:
        """Release the lock and set the session's settings back, because a pool may keep the connection."""
        self.pid = None
        if connection.closed or connection.invalidated:
            return
        connection.rollback()
        connection.execute(sa.text("SELECT pg_advisory_unlock(:key)"), {"key": self.key.value})
        self._set_back(connection)

    def _set_back(self, connection: sa.Connection) -> None:
        back = "SELECT set_config(name, coalesce(reset_val, ''), false) FROM pg_settings WHERE name = ANY(:names)"
        connection.execute(sa.text(back), {"names": list(self._settings)})
        connection.commit()

    def check_hold(self, connection: sa.Connection) -> None:
        """Check that this session holds the second lock, and the other one the first.

        Raises:
            HoldLost: one of them does not, so another instance may be migrating at this moment.
        """
        row = connection.execute(sa.text("SELECT {} AS first, {} AS second".format(*self._held))).one()
        if not (row.first and row.second):
            lost = self.key if row.first else self._first
            raise HoldLost(
                f"the session lost the advisory lock {lost} during the run (DISCARD ALL or pg_advisory_unlock_all in a "
                "revision releases it); the revision is rolled back"
            )

    def _refuse_other_database(self, connection: sa.Connection) -> None:
        where = sa.text(_WHERE.format(first=HELD.format(high=self._first.high, low=self._first.low)))
        row = connection.execute(where, {"first_pid": self._first_pid}).one()
        connection.rollback()
        if _pid_at_login(connection) not in (None, row.pid):
            raise DirectConnectionNeeded(
                "the connection that env.py opens goes through a transaction pooler, where a session holds no lock. "
                "To fix: let env.py connect to the database's direct endpoint (its own port, not the pooler's)"
            )
        if not row.sees_first:
            raise ForeignConnection(
                f"env.py connects to the database {row.database!r}, where this instance holds no lock"
                f"{' (the server is a standby)' if row.standby else ''}. To fix: let env.py use the same URL as "
                "DATABASE_URL, or set MIGRATION_DATABASE_URL to the one that env.py uses"
            )
        self.pid = row.pid
        stores(connection.dialect, lambda: ("UTF8", row.encoding))

    def _refuse_autocommit(self, connection: sa.Connection) -> None:
        _set(connection, _PROBE, "yes", local=True)
        probe = connection.scalar(sa.text("SELECT current_setting(:name, true)"), {"name": _PROBE})
        connection.rollback()
        if probe != "yes":
            raise ForeignConnection(
                "env.py opens its connection in autocommit, so a failed revision could not be rolled back. To fix: "
                "remove isolation_level='AUTOCOMMIT' from its engine"
            )

    def _set(self, connection: sa.Connection) -> None:
        known = sa.text("SELECT name FROM pg_settings WHERE name = ANY(:names)")
        names = list(connection.execute(known, {"names": list(self._settings)}).scalars())
        connection.commit()
        for name in names:
            # some platforms know a setting and accept only its default
            try:
                _set(connection, name, self._settings[name])
                connection.commit()
            except sa.exc.DBAPIError:
                if connection.invalidated:
                    raise
                connection.rollback()


def _set(connection: sa.Connection, name: str, value: str, *, local: bool = False) -> None:
    set_config = sa.text("SELECT set_config(:name, :value, :local)")
    connection.execute(set_config, {"name": name, "value": value, "local": local})


def _pid_at_login(connection: sa.Connection) -> int | None:
    # the pid in the server's first answer; a pooler gives one of its own
    driver: Any = connection.connection.driver_connection
    if hasattr(driver, "get_server_pid"):  # asyncpg
        return int(driver.get_server_pid())
    info = getattr(driver, "info", None)  # psycopg and psycopg2
    pid = getattr(info, "backend_pid", None)
    return None if pid is None else int(pid)
