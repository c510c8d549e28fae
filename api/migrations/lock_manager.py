"""The PostgreSQL advisory lock: how a session acquires, confirms and releases it, and the names of its sessions.

Rules, and what happens without them:

* One session holds the lock and runs the DDL. With a second connection for the lock, a killed client would free the
  lock while its statement continues in the server: two migrators.
* `pg_try_advisory_lock`, never `pg_advisory_lock`. A waiter that blocks in the server holds a snapshot, for which the
  holder's CREATE INDEX CONCURRENTLY waits: a deadlock that leaves an INVALID index.
* Autocommit: a session that is idle in a transaction holds a snapshot too.
* Only the session itself can unlock. From outside, only `SELECT pg_terminate_backend(<pid>)` of the holder frees the
  lock; `pg_advisory_unlock_all()` frees the caller's own locks.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import asyncpg
import sqlalchemy as sa

from .core.lock_key import LockKey
from .core.protocols import ANSWER_SECONDS
from .errors import HoldLost
from .execution.invalid_indexes import INVALID_INDEXES
from .execution.lock_retry import LockRetrySchedule
from .execution.migration_lock import MigrationLock
from .text.encoding import ASCII, restored, storable

if TYPE_CHECKING:
    from .core.builds import NamedSessions

HELD = """
    FROM pg_locks
    WHERE locktype = 'advisory' AND objsubid = 1 AND granted
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND classid = {high} AND objid = {low}
"""
"""The holder of a key in this database, for a `SELECT pid`; to be formatted with both halves of the key."""
HELD_EITHER = HELD.replace("classid = {high} AND objid = {low}", "(classid, objid) IN (($1, $2), ($3, $4))")
"""The same for the first or the second lock; its parameters are `LockKey.halves`."""

NAMED_SESSIONS = """
    SELECT application_name AS application, usename::text AS user, min(pid) AS pid, count(*)::int AS count
    FROM pg_stat_activity
    WHERE datname = current_database() AND position('@' IN application_name) > 1
      AND NOT starts_with(application_name, 'migrations:')
    GROUP BY 1, 2 ORDER BY 1, 2
"""
"""The sessions that may be named after a build, `service@head`; every role sees the names of all sessions."""
CURRENT_SESSIONS = "SELECT pg_stat_clear_snapshot()"
"""Before `NAMED_SESSIONS` in a transaction, which otherwise keeps what it has seen."""
NAME_BYTES = 63
SHORTEST_CUT = 23
"""The fewest characters of an instance's name in an `application_name` that was cut."""


class RunLock(MigrationLock):
    """What a lock of PostgreSQL does in a run with a COMMIT for each revision, on any driver."""

    holds: str | None
    transaction_scoped = False
    transactional_ddl = True

    def __init__(self, schedule: LockRetrySchedule, channel: str) -> None:
        self.schedule = schedule
        self._channel = channel

    def check_constraints(self, connection: sa.Connection) -> None:
        """Do nothing: each revision has its own COMMIT."""

    def invalid_indexes(self, connection: sa.Connection) -> frozenset[str]:
        """Return the INVALID indexes of the database."""
        return frozenset(connection.exec_driver_sql(INVALID_INDEXES).scalars())

    def named_sessions(self, connection: sa.Connection) -> list[NamedSessions]:
        """Return the sessions that may be named after a build, as they are now."""
        from .core.builds import NamedSessions  # at head, a start does not need it

        connection.exec_driver_sql(CURRENT_SESSIONS)
        return [NamedSessions(**row) for row in connection.exec_driver_sql(NAMED_SESSIONS).mappings()]

    def limits_of(self, revision: str) -> dict[str, str]:
        """Return the settings with the limits of the revision's next attempt."""
        return self.schedule.settings(revision)

    def set_limits(self, connection: sa.Connection, revision: str) -> None:
        """Set the limits of the next revision on the session; the caller commits."""
        limits = sa.text(
            "SELECT set_config('lock_timeout', :lock_timeout, :local), "
            "set_config('statement_timeout', :statement_timeout, :local)"
        )
        connection.execute(limits, {**self.limits_of(revision), "local": self.transaction_scoped})

    def wake(self, connection: sa.Connection) -> None:
        """Notify the waiters with the COMMIT of the open transaction: the verification after it takes longer."""
        connection.execute(sa.text("SELECT pg_notify(:channel, '')"), {"channel": self._channel})

    def roll_back(self, connection: sa.Connection) -> bool:
        """Roll back a failed revision; return whether the lock is still held."""
        connection.rollback()
        return True

    def commit_record(self, connection: sa.Connection) -> None:
        """Commit the record that was written after `roll_back`."""
        connection.commit()


class SessionLock(RunLock):
    """The lock of one session, held until unlock or the end of the session."""

    isolation_level = "READ COMMITTED"

    def __init__(self, key: LockKey, connection: asyncpg.Connection, schedule: LockRetrySchedule) -> None:
        super().__init__(schedule, key.channel)
        self.key = key
        self.holds = f"EXISTS (SELECT {HELD.format(high=key.high, low=key.low)} AND pid = pg_backend_pid())"
        self._connection = connection

    async def try_lock(self) -> bool:
        """Acquire the lock if it is free."""
        return await self._try("pg_try_advisory_lock")

    async def complete(self) -> None:
        """Commit the run; here each revision is already committed."""

    async def unlock(self) -> None:
        """Release the lock. Raises `HoldLost` if this session did not hold it."""
        sql = "SELECT pg_advisory_unlock($1)"
        if not await self._connection.fetchval(sql, self.key.value, timeout=ANSWER_SECONDS):
            raise HoldLost(
                f"the advisory lock {self.key} was already released before unlock; a revision probably called "
                "pg_advisory_unlock_all"
            )

    async def confirm(self) -> None:
        """Raise `HoldLost` unless this session holds the lock, while no revision runs."""
        held = "SELECT count(*)" + HELD.format(high="$1", low="$2") + " AND pid = pg_backend_pid()"
        if not await self._connection.fetchval(held, self.key.high, self.key.low, timeout=ANSWER_SECONDS):
            raise HoldLost(f"this session lost the advisory lock {self.key} before anything was changed")

    @asynccontextmanager
    async def look(self) -> AsyncIterator[None]:
        """Surround a query that fails if a table does not exist."""
        yield

    def check_hold(self, connection: sa.Connection) -> None:
        """Raise `HoldLost` unless this session holds the lock: another instance may be migrating."""
        if not connection.exec_driver_sql(f"SELECT {self.holds}").scalar_one():
            raise HoldLost(
                f"this session lost the advisory lock {self.key} during the run (DISCARD ALL or pg_advisory_unlock_all "
                "in a revision does that); the revision was rolled back"
            )

    async def _try(self, function: str) -> bool:
        return bool(await self._connection.fetchval(f"SELECT {function}($1)", self.key.value, timeout=ANSWER_SECONDS))


class TransactionLock(SessionLock):
    """The lock behind a transaction pooler: one transaction carries it and all revisions.

    A session lock would belong to the pooler's backend: two clients could hold it, and it would outlive both.
    """

    transaction_scoped = True
    # this class begins and ends the transaction, so SQLAlchemy must not
    isolation_level = "AUTOCOMMIT"

    async def try_lock(self) -> bool:
        """Begin a transaction and acquire the lock in it, if it is free."""
        await self._connection.execute("BEGIN", timeout=ANSWER_SECONDS)
        held = await self._try("pg_try_advisory_xact_lock")
        if not held:
            await self.unlock()
        return held

    async def complete(self) -> None:
        """Commit all revisions, which frees the lock."""
        await self._connection.execute("COMMIT", timeout=ANSWER_SECONDS)

    async def unlock(self) -> None:
        """Roll back the transaction if it is still open."""
        if self._connection.is_in_transaction():
            await self._connection.execute("ROLLBACK", timeout=ANSWER_SECONDS)

    def check_constraints(self, connection: sa.Connection) -> None:
        """Check deferred constraints, so that an error names the revision that violates them."""
        connection.exec_driver_sql("SET CONSTRAINTS ALL IMMEDIATE")
        connection.exec_driver_sql("SET CONSTRAINTS ALL DEFERRED")

    def roll_back(self, connection: sa.Connection) -> bool:
        """Roll back everything, which frees the lock; return whether this session acquired it again."""
        connection.exec_driver_sql("ROLLBACK")
        connection.exec_driver_sql("BEGIN")
        sql = "SELECT pg_try_advisory_xact_lock($1)"
        held = bool(connection.exec_driver_sql(sql, (self.key.value,)).scalar_one())
        if not held:
            connection.exec_driver_sql("ROLLBACK")
        return held

    def commit_record(self, connection: sa.Connection) -> None:
        """Commit the record that was written after `roll_back`, which frees the lock."""
        connection.exec_driver_sql("COMMIT")

    @asynccontextmanager
    async def look(self) -> AsyncIterator[None]:
        """Set a savepoint, so that a table that does not exist does not abort the transaction."""
        if not self._connection.is_in_transaction():
            yield
            return
        await self._connection.execute("SAVEPOINT look")
        try:
            yield
        except asyncpg.PostgresError:
            await self._connection.execute("ROLLBACK TO SAVEPOINT look")
            raise


def application_name(key: LockKey, role: str, instance: str) -> str:
    """Return `migrations:<key>:<role>:<instance>` in ASCII, cut to the 63 bytes that PostgreSQL keeps."""
    name = f"{key.label}{role}:"
    for character in instance:
        encoded = storable(character, ASCII)
        if len(name) + len(encoded) > NAME_BYTES:
            break
        name += encoded
    return name


def instance_of(name: str | None) -> str:
    """Return the instance in an `application_name`; the whole name if it is not of this package's form."""
    if not name:
        return "unknown"
    return restored(name.split(":", 3)[3]) if name.startswith("migrations:") and name.count(":") >= 3 else name


def may_be(shown: str, instance: str) -> bool:
    """Return whether `shown`, from an `application_name`, may be `instance`, whose name may have been cut."""
    beginning, whole = storable(shown, ASCII), storable(instance, ASCII)
    return whole == beginning or (len(beginning) >= SHORTEST_CUT and whole.startswith(beginning))
