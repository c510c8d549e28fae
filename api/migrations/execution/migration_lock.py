"""The protocol between a run and the lock that its session holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import sqlalchemy as sa

from .lock_retry import LockRetrySchedule

if TYPE_CHECKING:
    from ..core.builds import NamedSessions  # at head, a start does not need it


class MigrationLock(Protocol):
    """The lock of the session that runs the revisions."""

    transaction_scoped: bool
    """Whether one transaction carries the lock and all revisions, so that a failure rolls back all of them."""
    transactional_ddl: bool
    """Whether DDL can be rolled back; MySQL commits before and after each DDL statement."""
    schedule: LockRetrySchedule
    """The limits of the attempts at each revision."""
    holds: str | None
    """An SQL expression on PostgreSQL: whether this session holds the lock, for a statement that does more. None
    elsewhere."""

    def check_hold(self, connection: sa.Connection) -> None:
        """Raise `HoldLost` unless this session holds the lock."""

    def check_constraints(self, connection: sa.Connection) -> None:
        """Check deferred constraints now if the COMMIT comes only after other revisions."""

    def invalid_indexes(self, connection: sa.Connection) -> frozenset[str]:
        """Return the INVALID indexes, read in the open transaction; only PostgreSQL has any."""

    def named_sessions(self, connection: sa.Connection) -> list[NamedSessions]:
        """Return the sessions that may be named after a build; only PostgreSQL shows any."""

    def limits_of(self, revision: str) -> dict[str, str]:
        """Return the settings with the limits of a revision's next attempt; empty where the server has none."""

    def set_limits(self, connection: sa.Connection, revision: str) -> None:
        """Set the limits of the next revision on the session."""

    def wake(self, connection: sa.Connection) -> None:
        """Wake the waiters when the open transaction is committed; only PostgreSQL can."""

    def roll_back(self, connection: sa.Connection) -> bool:
        """Roll back a failed revision; return whether the lock is held, so that the failure may be recorded."""

    def commit_record(self, connection: sa.Connection) -> None:
        """Commit the record that was written after `roll_back`."""


class ReleasableLock(MigrationLock, Protocol):
    """The second lock, on another connection than the first."""

    def release(self, connection: sa.Connection) -> None:
        """Release it, and set the session's settings back."""
