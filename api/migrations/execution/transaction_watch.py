"""The transaction that a revision is given, which it must leave as it is.

What a revision rolls back in the middle is lost, while what follows is committed and counts as the whole revision. The
rollback of a `Session` on `op.get_bind()` does that, and the revision goes on as if nothing had happened.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from .statements import commits_by_itself, ends_transaction, only_reads

_BLOCK = "move what cannot run in a transaction into an op.get_context().autocommit_block()"


class TransactionWatch:
    """What the statements of each revision on `connection` mean for its transaction."""

    def __init__(self, connection: sa.Connection, *, transaction_scoped: bool, transactional_ddl: bool) -> None:
        self._connection = connection
        self._pooled = transaction_scoped
        self._transactional_ddl = transactional_ddl
        self._open = self._wrote = self._lost = False

    def begin(self) -> None:
        """The next revision begins."""
        self._open = self._wrote = self._lost = False

    @property
    def in_block(self) -> bool:
        """Whether the revision is in an `autocommit_block`; behind a pooler there is none."""
        return not self._pooled and self._connection.get_execution_options().get("isolation_level") == "AUTOCOMMIT"

    @property
    def ended_unseen(self) -> bool:
        """Whether the transaction was ended on the driver's connection, past SQLAlchemy."""
        return self._open and not _in_transaction(self._connection.connection.driver_connection)

    def executes(self, statement: str) -> None:
        """The revision is about to execute it.

        Raises:
            InvalidRequestError: it would end the transaction.
        """
        if self.in_block:
            return
        if ends_transaction(statement):
            raise sa.exc.InvalidRequestError(f"a revision may not end its own transaction. To fix: {_BLOCK}")
        if not self._transactional_ddl and commits_by_itself(statement):
            self.committed()
        else:
            self._open = True
            self._wrote = self._wrote or not only_reads(statement)

    def committed(self) -> None:
        """What was written until now stays."""
        self._open = self._wrote = False

    def rolled_back(self) -> None:
        """What was written since the last commit is gone."""
        self._lost = self._lost or (self._wrote and not self.in_block)
        self._open = self._wrote = False

    def check(self) -> None:
        """Make sure that the transaction is the one that the revision was given.

        Raises:
            InvalidRequestError: it is not.
        """
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
    # asyncpg's and SQLite's; the others do not tell
    told = getattr(driver_connection, "is_in_transaction", None)
    return bool(told()) if told is not None else bool(getattr(driver_connection, "in_transaction", True))
