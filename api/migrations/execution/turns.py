"""Ends the attempt at one revision and begins the one at the next, in one statement and one transaction (PostgreSQL).

A process that dies right after that COMMIT leaves an attempt that never ran a statement: it counts as interrupted.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import sqlalchemy as sa

from .history_table import NOW, Attempt, History, Outcome, RunAuthor, json_of
from .migration_lock import MigrationLock


class Turns:
    """The turns from one revision to the next of one run."""

    def __init__(self, history: History, author: RunAuthor, lock: MigrationLock) -> None:
        self._history = history
        self._author = author
        self._lock = lock

    def turn(self, connection: sa.Connection, done: Attempt, following: Attempt) -> None:
        """Mark one attempt and record the next one in the open transaction, with the limits of the next one.

        Raises:
            HoldLost: this session does not hold the lock.
        """
        row = self._history.row(self._author, following)
        values = {f"new_{name}": value for name, value in row.items()} | {"done_id": done.id}
        values |= self._lock.limits_of(following.revision)
        answer: Any = connection.execute(self._statement, values).one()
        following.id, held, suspects = answer[:3]
        if suspects and (invalid := self._lock.invalid_indexes(connection)):
            following.invalid_before = invalid
            own = sa.update(self._history.table).where(self._history.table.c.id == following.id)
            connection.execute(own.values(invalid_before=json_of(invalid)))
        if not held:
            self._lock.check_hold(connection)  # it says which lock is lost

    @cached_property
    def _statement(self) -> Any:
        # made once: SQLAlchemy needs longer to make and compile it than the server to execute it
        c, parameter = self._history.table.c, sa.bindparam
        finished = {"outcome": Outcome.APPLIED, "finished_at": NOW, "error": None, "error_class": None}
        done = sa.update(self._history.table).where(c.id == parameter("done_id")).values(finished | {"statement": None})
        names = ("revision", "parents", "direction", "outcome", "instance", "release")
        row: dict[str, Any] = {name: parameter(f"new_{name}", type_=c[name].type) for name in names}
        row["invalid_before"] = json_of(())
        limits = [
            sa.func.set_config(name, parameter(name, type_=sa.Text), sa.literal(self._lock.transaction_scoped))
            for name in ("lock_timeout", "statement_timeout")
        ]
        # most databases have none, and the whole query takes longer to plan than all the rest
        suspects: Any = sa.literal_column("EXISTS (SELECT FROM pg_index WHERE NOT indisvalid)")
        answers = (c.id, sa.literal_column(str(self._lock.holds)), suspects, *limits)
        return sa.insert(self._history.table).values(row).add_cte(done.cte("done")).returning(*answers)
