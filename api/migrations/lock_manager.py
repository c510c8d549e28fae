"""The PostgreSQL advisory lock: its key, one try, a checked unlock, and whose name its sessions bear.

Rules, and what happens without them:

* One session takes the lock and runs the DDL. With a second connection for the lock, a killed client frees the
  lock at once while its statement runs on in the server: two migrators.
* `pg_try_advisory_lock`, never `pg_advisory_lock`. A waiter blocked inside the server holds a snapshot, and the
  holder's CREATE INDEX CONCURRENTLY waits for it: a deadlock that leaves an invalid index.
* Autocommit. Idle inside a transaction the session holds a snapshot as well.
* Only the session itself can unlock. From outside, `SELECT pg_terminate_backend(<pid>)` of the holder is the one
  way; `pg_advisory_unlock_all()` frees the caller's own locks and nothing else.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import sqlalchemy as sa

from .core.lock_key import LockKey
from .core.protocols import ANSWER_SECONDS
from .errors import HoldLost
from .execution.invalid_indexes import INVALID_INDEXES
from .execution.lock_retry import LockRetrySchedule
from .text.encoding import ASCII, restored, storable

HELD = """
    FROM pg_locks
    WHERE locktype = 'advisory' AND objsubid = 1 AND granted
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND classid = {high} AND objid = {low}
"""
"""Who holds a key in this database, for a `SELECT pid`; both halves are to be put in."""
HELD_EITHER = HELD.replace(
    "classid = {high} AND objid = {low}", "(classid, objid) IN (({high}, {low}), ({high_2}, {low_2}))"
)
"""The same for the first or the second lock."""


NAME_BYTES = 63
SHORTEST_CUT = 23
"""How much of an instance's name is in an `application_name` at least, if it was cut."""


class SessionLock:
    """The lock of one session, held until unlock or the end of the session."""

    transaction_scoped = False
    transactional_ddl = True
    isolation_level = "READ COMMITTED"

    def __init__(self, key: LockKey, connection: asyncpg.Connection, schedule: LockRetrySchedule) -> None:
        self.key = key
        self.schedule = schedule
        self._connection = connection

    async def try_lock(self) -> bool:
        """Take the lock if it is free."""
        return await self._try("pg_try_advisory_lock")

    async def complete(self) -> None:
        """Make the work permanent; here each revision already is."""

    async def unlock(self) -> None:
        """Give the lock back.

        Raises:
            HoldLost: the server says that this session did not hold it.
        """
        sql = "SELECT pg_advisory_unlock($1)"
        if not await self._connection.fetchval(sql, self.key.value, timeout=ANSWER_SECONDS):
            raise HoldLost(f"the advisory lock {self.key} was gone before it was given back; a revision freed it")

    def check_constraints(self, connection: sa.Connection) -> None:
        """Nothing to do: each revision has its own COMMIT."""

    def invalid_indexes(self, connection: sa.Connection) -> frozenset[str]:
        """Return the INVALID indexes of the database."""
        return frozenset(connection.exec_driver_sql(INVALID_INDEXES).scalars())

    def set_limits(self, connection: sa.Connection, revision: str) -> None:
        """Give the session the limits of the revision that comes next; the caller commits."""
        limits = self.schedule.settings(revision)
        connection.exec_driver_sql(
            "SELECT set_config('lock_timeout', $1, $3), set_config('statement_timeout', $2, $3)",
            (limits["lock_timeout"], limits["statement_timeout"], self.transaction_scoped),
        )

    def roll_back(self, connection: sa.Connection) -> bool:
        """Roll back what a failed revision left open; returns whether the lock is still held."""
        connection.rollback()
        return True

    def commit_record(self, connection: sa.Connection) -> None:
        """Commit what was written after `roll_back`."""
        connection.commit()

    async def confirm(self) -> None:
        """`check_hold` while no revision runs.

        Raises:
            HoldLost: this session does not hold the lock any more.
        """
        held = "SELECT count(*)" + HELD.format(high="$1", low="$2") + " AND pid = pg_backend_pid()"
        if not await self._connection.fetchval(held, self.key.high, self.key.low, timeout=ANSWER_SECONDS):
            raise HoldLost(f"this session lost the advisory lock {self.key} before anything was changed")

    @asynccontextmanager
    async def look(self) -> AsyncIterator[None]:
        """Around a query that may fail because a table is missing."""
        yield

    def check_hold(self, connection: sa.Connection) -> None:
        """Make sure that this very session holds the lock.

        Raises:
            HoldLost: it does not, so another instance may be migrating at this moment.
        """
        held = "SELECT count(*)" + HELD.format(high=self.key.high, low=self.key.low) + " AND pid = pg_backend_pid()"
        if not connection.exec_driver_sql(held).scalar_one():
            raise HoldLost(
                f"this session lost the advisory lock {self.key} in mid-run (DISCARD ALL or pg_advisory_unlock_all in "
                "a revision does that); the revision is rolled back, the next attempt starts from the database's state"
            )

    async def _try(self, function: str) -> bool:
        return bool(await self._connection.fetchval(f"SELECT {function}($1)", self.key.value, timeout=ANSWER_SECONDS))


class TransactionLock(SessionLock):
    """The lock behind a transaction pooler: one transaction carries it and all the work.

    A session lock taken there stays with the pooler's backend: it is granted to two clients and outlives both.
    """

    transaction_scoped = True
    # the transaction is begun and ended here, so SQLAlchemy must do neither
    isolation_level = "AUTOCOMMIT"

    async def try_lock(self) -> bool:
        """Begin a transaction and take the lock in it, if it is free."""
        await self._connection.execute("BEGIN", timeout=ANSWER_SECONDS)
        held = await self._try("pg_try_advisory_xact_lock")
        if not held:
            await self.unlock()
        return held

    async def complete(self) -> None:
        """Commit all the work, which also frees the lock."""
        await self._connection.execute("COMMIT", timeout=ANSWER_SECONDS)

    async def unlock(self) -> None:
        """End the transaction, if it is still open."""
        if self._connection.is_in_transaction():
            await self._connection.execute("ROLLBACK", timeout=ANSWER_SECONDS)

    def check_constraints(self, connection: sa.Connection) -> None:
        """Deferred constraints, while it is known whose revision they are."""
        connection.exec_driver_sql("SET CONSTRAINTS ALL IMMEDIATE")
        connection.exec_driver_sql("SET CONSTRAINTS ALL DEFERRED")

    def roll_back(self, connection: sa.Connection) -> bool:
        """Roll back everything, which frees the lock; returns whether it could be taken again at once."""
        connection.exec_driver_sql("ROLLBACK")
        connection.exec_driver_sql("BEGIN")
        sql = "SELECT pg_try_advisory_xact_lock($1)"
        held = bool(connection.exec_driver_sql(sql, (self.key.value,)).scalar_one())
        if not held:
            connection.exec_driver_sql("ROLLBACK")
        return held

    def commit_record(self, connection: sa.Connection) -> None:
        """Commit what was written after `roll_back`, which frees the lock."""
        connection.exec_driver_sql("COMMIT")

    @asynccontextmanager
    async def look(self) -> AsyncIterator[None]:
        """Inside the transaction a missing table would abort it; a savepoint keeps it alive."""
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
    """`migrations:<key>:<role>:<instance>`, cut to the 63 bytes that PostgreSQL keeps; of these only ASCII is shown."""
    name = f"{key.label}{role}:"
    for character in instance:
        spelt = storable(character, ASCII)
        if len(name) + len(spelt) > NAME_BYTES:
            break
        name += spelt
    return name


def instance_of(name: str | None) -> str:
    """The instance in an `application_name`; a session that is not one of ours is shown by its name."""
    if not name:
        return "unknown"
    return restored(name.split(":", 3)[3]) if name.startswith("migrations:") and name.count(":") >= 3 else name


def may_be(shown: str, instance: str) -> bool:
    """Whether a session that shows the instance `shown` may be that of `instance`: its name may have been cut."""
    beginning, whole = storable(shown, ASCII), storable(instance, ASCII)
    return whole == beginning or (len(beginning) >= SHORTEST_CUT and whole.startswith(beginning))
