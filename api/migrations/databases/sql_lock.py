"""What the locks of MySQL, MariaDB and SQLite have in common."""

from __future__ import annotations

from abc import abstractmethod

import sqlalchemy as sa

from ..core.builds import NamedSessions
from ..core.status import Holder
from ..execution.migration_lock import MigrationLock
from .second_connection import SecondSession


class SqlRunLock(MigrationLock):
    """A lock in a run with a COMMIT for each revision."""

    transaction_scoped = False
    holds: str | None = None

    def limits_of(self, revision: str) -> dict[str, str]:
        """Return none: the limits of these servers have other units."""
        return {}

    def check_constraints(self, connection: sa.Connection) -> None:
        """Do nothing: no constraint is deferred."""

    def invalid_indexes(self, connection: sa.Connection) -> frozenset[str]:
        """Return none: only PostgreSQL has INVALID indexes."""
        return frozenset()

    def named_sessions(self, connection: sa.Connection) -> list[NamedSessions]:
        """Return none: these databases do not show the names of sessions."""
        return []

    def wake(self, connection: sa.Connection) -> None:
        """Do nothing: waiters poll."""

    def roll_back(self, connection: sa.Connection) -> bool:
        """Roll back a failed revision; a lost connection has lost the lock."""
        if connection.invalidated:
            return False
        connection.rollback()
        return True

    def commit_record(self, connection: sa.Connection) -> None:
        """Commit the record that was written after `roll_back`."""
        connection.commit()


class ExclusiveLock(SqlRunLock):
    """The database's own lock; it ends with the connection, or with the process."""

    isolation_level: str
    """Of a run's transactions."""
    knows_instances: bool
    """Whether `holder` names an instance; else only the connection."""

    @abstractmethod
    async def try_lock(self) -> bool:
        """Acquire the lock if it is free, without waiting."""

    @abstractmethod
    async def unlock(self) -> None:
        """Release the lock. Raises `HoldLost` if this session no longer held it."""

    @abstractmethod
    async def holder(self) -> Holder | None:
        """Return the holder, as far as the database shows it."""

    @abstractmethod
    def second(self) -> SecondSession:
        """Return what a run needs on a connection that env.py opens, while this session holds the lock."""

    async def held(self) -> bool:
        """Return whether any session holds the lock."""
        return await self.holder() is not None

    def forget(self) -> None:
        """Release, after the connection was closed, what did not end with it."""
