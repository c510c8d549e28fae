"""The history table: one row for each attempt at a revision, beside Alembic's version table.

An attempt is recorded before the step and committed, so that an interrupted one is visible; its outcome is
written in the transaction that changes the version row, so that the two can never disagree. A revision that
commits in the middle (`autocommit_block`) is marked half-applied *in the transaction that it commits*.
The parents of each revision are kept too: they prove that a database is ahead of an older build.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import sqlalchemy as sa

KEY = sa.BigInteger().with_variant(sa.Integer, "sqlite")
NOW = sa.func.clock_timestamp()


class Outcome(StrEnum):
    """How an attempt ended, or that it has not."""

    RUNNING = "running"
    HALF_APPLIED = "half_applied"
    APPLIED = "applied"
    RETRIED = "retried"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    STAMPED = "stamped"


@dataclass(frozen=True)
class Author:
    """Who makes the attempt."""

    instance: str
    release: str | None


class History:
    """The table, and the statements that write it; they run on the session that holds the lock."""

    def __init__(self, name: str, schema: str | None) -> None:
        self.table = sa.Table(
            name,
            sa.MetaData(schema=schema),
            sa.Column("id", KEY, sa.Identity(always=True), primary_key=True),
            sa.Column("revision", sa.String(255), nullable=False),
            sa.Column("parents", sa.Text, nullable=False),
            sa.Column("direction", sa.String(16), nullable=False),
            sa.Column("outcome", sa.String(16), nullable=False),
            sa.Column("instance", sa.String(255), nullable=False),
            sa.Column("release", sa.String(255)),
            sa.Column("database_user", sa.String(255), nullable=False, server_default=sa.func.current_user()),
            sa.Column("started_at", sa.DateTime(timezone=True), nullable=False, server_default=NOW),
            sa.Column("finished_at", sa.DateTime(timezone=True)),
            sa.Column("error", sa.Text),
        )

    def prepare(self, connection: sa.Connection, idempotent: frozenset[str]) -> None:
        """Create the table if need be, and close what dead migrators left open: under the lock nobody else runs."""
        self.table.create(connection, checkfirst=True)
        outcome = self.table.c.outcome
        left_open = (outcome == Outcome.RUNNING) | (
            (outcome == Outcome.HALF_APPLIED) & self.table.c.revision.in_(idempotent)
        )
        connection.execute(sa.update(self.table).where(left_open).values(outcome=Outcome.INTERRUPTED, finished_at=NOW))
        connection.commit()

    def begin(
        self, connection: sa.Connection, author: Author, revision: str, parents: frozenset[str], direction: str
    ) -> int:
        """Record an attempt and commit it; returns its id."""
        row = self._row(author, revision, parents, direction, Outcome.RUNNING)
        attempt: int = connection.execute(sa.insert(self.table).values(row).returning(self.table.c.id)).scalar_one()
        connection.commit()
        return attempt

    def mark(self, connection: sa.Connection, attempt: int, outcome: Outcome, error: str | None = None) -> bool:
        """Record the outcome of an attempt in the transaction that is open; the caller commits.

        Returns False where the attempt is not in the table (it was rolled back with its transaction).
        """
        finished = None if outcome is Outcome.HALF_APPLIED and error is None else NOW
        result = connection.execute(
            sa.update(self.table)
            .where(self.table.c.id == attempt)
            .values(outcome=outcome, finished_at=finished, error=error)
        )
        return result.rowcount > 0

    def stamped(self, connection: sa.Connection, author: Author, revisions: Mapping[str, frozenset[str]]) -> None:
        """Record revisions that were declared applied, with their parents; the caller commits.

        The declaration also settles what was half applied: the operator says how the schema stands.
        """
        rows = [
            {**self._row(author, revision, parents, "stamp", Outcome.STAMPED), "finished_at": NOW}
            for revision, parents in revisions.items()
        ]
        for row in rows:
            connection.execute(sa.insert(self.table).values(row))
        self.settle(connection)

    def settle(self, connection: sa.Connection) -> None:
        """Turn half-applied attempts into interrupted ones: the operator has put the schema in order."""
        connection.execute(
            sa.update(self.table)
            .where(self.table.c.outcome == Outcome.HALF_APPLIED)
            .values(outcome=Outcome.INTERRUPTED, finished_at=NOW)
        )

    def _row(
        self, author: Author, revision: str, parents: frozenset[str], direction: str, outcome: Outcome
    ) -> dict[str, object]:
        return {
            "revision": revision,
            "parents": " ".join(sorted(parents)),
            "direction": direction,
            "outcome": outcome,
            "instance": author.instance,
            "release": author.release,
        }
