"""Watches whether a revision ends the transaction in which it runs.

If a revision rolls back in the middle, for example with a `Session` on `op.get_bind()`, the first part is lost, and the
rest would be committed and count as the whole revision.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from .migration_lock import MigrationLock
from .statements import commits_by_itself, ends_transaction, only_reads

_BLOCK = "move what cannot run in a transaction into an op.get_context().autocommit_block()"


class TransactionWatch:
    """Follows the transaction of each revision on `connection`."""

    def __init__(self, connection: sa.Connection, lock: MigrationLock) -> None:
        self._connection = connection
        self._lock = lock
        self._open = self._wrote = self._lost = False

    def begin(self) -> None:
        """Start to watch the next revision."""
        self._open = self._wrote = self._lost = False

    @property
    def in_block(self) -> bool:
        """Whether the revision is in an `autocommit_block`; never behind a pooler."""
        options = self._connection.get_execution_options()
        return not self._lock.transaction_scoped and options.get("isolation_level") == "AUTOCOMMIT"

    @property
    def ended_unseen(self) -> bool:
        """Whether the transaction was ended on the driver's connection, without SQLAlchemy."""
        return self._open and not _in_transaction(self._connection.connection.driver_connection)

    def executes(self, statement: str) -> None:
        """Follow a statement before its execution; raise `InvalidRequestError` if it would end the transaction."""
        if self.in_block:
            return
        if ends_transaction(statement):
            raise sa.exc.InvalidRequestError(f"a revision may not end its own transaction. To fix: {_BLOCK}")
        if not self._lock.transactional_ddl and commits_by_itself(statement):
            self.committed()
        else:
            self._open = True
            self._wrote = self._wrote or not only_reads(statement)

    def committed(self) -> None:
        """Follow a commit: later rollbacks lose nothing of the earlier statements."""
        self._open = self._wrote = False

    def rolled_back(self) -> None:
        """Follow a rollback: what was written since the last commit is lost."""
        self._lost = self._lost or (self._wrote and not self.in_block)
        self._open = self._wrote = False

    def check(self) -> None:
        """Raise `InvalidRequestError` if the revision ended its transaction."""
        if self._lost:
            raise sa.exc.InvalidRequestError(
                "the revision rolled back its own transaction (rollback() of a Session on op.get_bind() does that), so "
                "a part of its work is lost. To fix: roll back to a savepoint, with op.get_bind().begin_nested(), or "
                "let the error propagate"
            )
        if self.ended_unseen:
            raise sa.exc.InvalidRequestError(
                f"the revision ended its own transaction on the driver's connection. To fix: {_BLOCK}"
            )


def _in_transaction(driver_connection: Any) -> bool:
    # psycopg and psycopg2 have the first attribute (0 is idle), asyncpg the second, SQLite the third, others none
    status = getattr(getattr(driver_connection, "info", None), "transaction_status", None)
    if status is not None:
        return bool(status)
    is_in_transaction = getattr(driver_connection, "is_in_transaction", None)
    return bool(is_in_transaction() if is_in_transaction else getattr(driver_connection, "in_transaction", True))
