"""Follows the open attempt at a revision, and marks it half applied in the transaction that commits a part of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from .history_table import Attempt, History, Outcome
from .migration_lock import MigrationLock
from .statements import atomic, commits_by_itself, kind, only_reads
from .transaction_watch import TransactionWatch


class OpenAttempt:
    """The attempt that is open on `connection`; `attempt` is None between two revisions."""

    def __init__(self, connection: sa.Connection, history: History, lock: MigrationLock) -> None:
        self.attempt: Attempt | None = None
        self._connection = connection
        self._history = history
        self._lock = lock
        self._watch = TransactionWatch(connection, lock)

    def listen(self) -> None:
        """Follow the statements and commits of the connection from now on."""
        sa.event.listen(self._connection, "commit", self._on_commit)
        sa.event.listen(self._connection, "rollback", self._on_rollback)
        sa.event.listen(self._connection, "before_cursor_execute", self._on_statement)
        if not self._lock.transactional_ddl:
            sa.event.listen(self._connection, "before_cursor_execute", self._before_ddl)
            sa.event.listen(self._connection, "after_cursor_execute", self._after_ddl)

    def begin(self, attempt: Attempt) -> None:
        """Follow `attempt`, which is recorded."""
        self.attempt = attempt
        self._watch.begin()

    def check(self) -> None:
        """Raise `InvalidRequestError` if the revision ended its transaction."""
        if self.attempt is not None:
            # it may have been COMMIT or ROLLBACK, so a part may be committed
            self.attempt.half = self.attempt.half or self._watch.ended_unseen
            self._watch.check()

    @contextmanager
    def unwatched(self) -> Iterator[Attempt]:
        """Yield the attempt, and meanwhile do not follow the statements, which are this package's own."""
        attempt, self.attempt = self.attempt, None
        assert attempt is not None
        try:
            yield attempt
        finally:
            self.attempt = attempt

    def _on_commit(self, connection: sa.Connection) -> None:
        # Before the version row changes, this is a commit in the middle of a revision. The mark is written in the
        # transaction that is being committed, so that it survives a crash right after it.
        if self.attempt is None or self._lock.transaction_scoped:  # behind a pooler only the end of the run commits
            return
        if self.attempt.outcome is Outcome.RUNNING:
            with self.unwatched() as attempt:
                attempt.outcome, attempt.half = Outcome.HALF_APPLIED, True
                self._history.mark(connection, attempt)
        self._watch.committed()

    def _on_rollback(self, _connection: sa.Connection) -> None:
        if self.attempt is not None:
            self._watch.rolled_back()

    def _on_statement(self, connection: sa.Connection, _cursor: Any, statement: str, *_: Any) -> None:
        if self.attempt is None:
            return
        self.attempt.statement = kind(statement)
        self._watch.executes(statement)
        if self.attempt.half and self._watch.in_block:
            with self.unwatched() as attempt:  # first, because this statement cannot be rolled back
                self._history.mark(connection, attempt)

    def _before_ddl(self, connection: sa.Connection, _cursor: Any, statement: str, *_: Any) -> None:
        # The statement first commits the open transaction, with the mark. If the instance dies during the statement,
        # its outcome is unknown.
        ddl = commits_by_itself(statement)
        if self.attempt is None or (only_reads(statement) and not ddl):
            return
        if ddl:
            with self.unwatched() as attempt:
                attempt.half = attempt.half or attempt.wrote or not atomic(statement)
                attempt.outcome = Outcome.HALF_APPLIED
                self._history.mark(connection, attempt)
        self.attempt.wrote = True

    def _after_ddl(self, _connection: sa.Connection, _cursor: Any, statement: str, *_: Any) -> None:
        if self.attempt is not None and commits_by_itself(statement):
            self.attempt.half = True
