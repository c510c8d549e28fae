"""The history table, beside Alembic's version table: one row for each attempt at a revision.

An attempt is committed before its step, so that an interrupted attempt is visible. Its outcome is written in the
transaction that changes the version row, so that the two cannot disagree. A revision that commits in the middle
(`autocommit_block`) is marked half applied in the transaction that it commits. The recorded parents of the revisions
prove that a database is ahead of an older build.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

import sqlalchemy as sa

from .dialects import Kept, KeptText, Moment, Now, User, table_options
from .table_shape import Shape, refuse_history

KEY = sa.BigInteger().with_variant(sa.Integer, "sqlite")
MOMENT = Moment(timezone=True)
NOW = Now()
CHARSET = "utf8mb4"
"""The table's character set on MySQL, where others cannot store every text."""


class Outcome(StrEnum):
    """The outcome of an attempt so far."""

    RUNNING = "running"
    HALF_APPLIED = "half_applied"
    APPLIED = "applied"
    RETRIED = "retried"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    STAMPED = "stamped"
    UNLOCKED = "unlocked"
    BACKED_UP = "backed_up"


ENDED = f"""
    extract(epoch FROM max(finished_at) FILTER (
        WHERE outcome IN ('{Outcome.APPLIED}', '{Outcome.STAMPED}')))::float8 AS success,
    extract(epoch FROM max(CASE outcome WHEN '{Outcome.INTERRUPTED}' THEN started_at ELSE finished_at END) FILTER (
        WHERE outcome IN ('{Outcome.FAILED}', '{Outcome.INTERRUPTED}', '{Outcome.HALF_APPLIED}')))::float8 AS failure
"""
"""Columns of a SELECT from the table: the last success and the last failure, in epoch seconds.

An interrupted attempt counts from its start, because the next lock holder or the operator's repair set its end. A
half-applied attempt without an end may still be running.
"""
GOOD = (Outcome.APPLIED, Outcome.STAMPED)
"""The outcomes of what is done."""
COMPLETED = f"""
    (SELECT CASE direction WHEN 'after' THEN revision::text END FROM {{history}}
     WHERE outcome IN ('{Outcome.APPLIED}', '{Outcome.STAMPED}') ORDER BY id DESC LIMIT 1)
"""
"""The same as `History.completed`; `{history}` is the table's quoted name."""
_REQUIRES = "requires"
"""The key of a contract's note."""
SLACK_SECONDS = 5.0
"""The tolerance between two clocks for an attempt's age; less than the pause before the next attempt."""
OPEN = (Outcome.RUNNING, Outcome.RETRIED, Outcome.HALF_APPLIED)
"""The outcomes of attempts that have not ended or are retried."""
RECENT_ROWS = 20
"""More than the status page shows, because it shows the retries of a revision as one."""
RECENT = f"""
    SELECT revision, direction, outcome, instance, extract(epoch FROM started_at)::float8 AS started_at,
           extract(epoch FROM finished_at - started_at)::float8 AS seconds
    FROM {{history}} ORDER BY id DESC LIMIT {RECENT_ROWS}
"""
"""The newest rows, for people; `{history}` is the table's quoted name."""


@dataclass(frozen=True)
class RunAuthor:
    """The instance and the release that make an attempt."""

    instance: str
    release: str | None


@dataclass
class Attempt:
    """One attempt at a revision."""

    revision: str
    parents: frozenset[str]
    direction: str
    invalid_before: frozenset[str] = frozenset()
    """The INVALID indexes before the first attempt at the revision."""
    id: int = 0
    outcome: Outcome = Outcome.RUNNING
    half: bool = False
    """Whether a part of it is committed, so that a rollback cannot undo it."""
    wrote: bool = False
    """Whether one of its statements may have changed anything."""
    statement: str | None = None
    """The kind of its last statement."""
    error_class: str | None = None
    """The name of the driver's or Python's exception that ended it."""
    requires: str | None = None
    """For a contract: the revision that a build must contain to run after it."""


class History:
    """The table, and the statements that write it on the session that holds the lock."""

    def __init__(self, name: str, schema: str | None) -> None:
        self.table = sa.Table(
            name,
            sa.MetaData(schema=schema),
            sa.Column("id", KEY, sa.Identity(always=True), primary_key=True),
            sa.Column("revision", Kept(255), nullable=False),
            sa.Column("parents", KeptText, nullable=False),
            sa.Column("direction", sa.String(16), nullable=False),
            sa.Column("outcome", sa.String(16), nullable=False),
            sa.Column("instance", Kept(255), nullable=False),
            sa.Column("release", Kept(255)),
            sa.Column("database_user", sa.String(255), nullable=False, server_default=User()),
            sa.Column("started_at", MOMENT, nullable=False, server_default=NOW),
            sa.Column("finished_at", MOMENT),
            sa.Column("error", KeptText),
            sa.Column("error_class", Kept(63)),
            sa.Column("statement", Kept(63)),
            sa.Column("invalid_before", sa.Text),
            sa.Column("note", KeptText),
        )

    def prepare(self, connection: sa.Connection, idempotent: frozenset[str]) -> None:
        """Create the table if it does not exist, and close the attempts of instances that died holding the lock."""
        self.create(connection)
        outcome = self.table.c.outcome
        left_open = (outcome == Outcome.RUNNING) | (
            (outcome == Outcome.HALF_APPLIED) & self.table.c.revision.in_(idempotent)
        )
        connection.execute(sa.update(self.table).where(left_open).values(outcome=Outcome.INTERRUPTED, finished_at=NOW))
        connection.commit()

    def create(self, connection: sa.Connection) -> None:
        """Create the table, or update one of an older release: add columns, and on MySQL convert the character set."""
        name, schema = self.table.name, self.table.schema
        inspector = sa.inspect(connection)
        if not inspector.has_table(name, schema=schema):
            self.table.dialect_kwargs.update(table_options(connection.dialect, CHARSET))
            self.table.create(connection)
            return
        types = {column["name"]: column["type"] for column in inspector.get_columns(name, schema=schema)}
        refuse_history(self.table.fullname, Shape(frozenset(types)))
        missing = [column for column in self.table.columns if column.name not in types]
        changes = [f"ADD COLUMN {sa.schema.CreateColumn(c).compile(dialect=connection.dialect)}" for c in missing]
        charsets = {getattr(type_, "charset", None) for type_ in types.values() if hasattr(type_, "charset")}
        if charsets:  # only MySQL's types have one
            options = inspector.get_table_options(name, schema=schema)
            charsets |= {value for key, value in options.items() if key.endswith("_default charset")}
            changes += [f"CONVERT TO CHARACTER SET {CHARSET}"] if charsets - {CHARSET, None} else []
        for change in changes:
            table = connection.dialect.identifier_preparer.format_table(self.table)
            connection.exec_driver_sql(f"ALTER TABLE {table} {change}")

    def unfinished(self, connection: sa.Connection) -> dict[str, frozenset[str]]:
        """Return the revisions whose last attempt is unfinished, with the INVALID indexes before it."""
        c = self.table.c
        last = sa.select(sa.func.max(c.id)).where(c.direction.in_(["upgrade", "downgrade", "stamp"]))
        unfinished = sa.select(c.revision, c.invalid_before).where(
            c.id.in_(last.group_by(c.revision)), c.outcome.not_in(GOOD), c.invalid_before.is_not(None)
        )
        return {row.revision: frozenset(json.loads(row.invalid_before)) for row in connection.execute(unfinished)}

    def lineage(self, connection: sa.Connection) -> dict[str, frozenset[str]]:
        """Return the parents of the revisions in the table."""
        c = self.table.c
        rows = sa.select(c.revision, c.parents).where(c.direction.in_(["upgrade", "downgrade", "stamp"])).distinct()
        return {row.revision: frozenset(row.parents.split()) for row in connection.execute(rows)}

    def begin(self, connection: sa.Connection, author: RunAuthor, attempt: Attempt) -> None:
        """Record an attempt and commit it."""
        row = self.row(author, replace(attempt, outcome=Outcome.RUNNING))
        row["invalid_before"] = json_of(attempt.invalid_before)
        inserted = connection.execute(sa.insert(self.table).values(row)).inserted_primary_key
        assert inserted is not None
        attempt.id = inserted[0]
        connection.commit()

    def mark(self, connection: sa.Connection, attempt: Attempt, error: str | None = None) -> bool:
        """Record the state of an attempt in the open transaction; the caller commits.

        Returns False if the attempt is not in the table because it was rolled back with its transaction.
        """
        values = {
            "outcome": attempt.outcome,
            "finished_at": None if attempt.outcome is Outcome.HALF_APPLIED and error is None else NOW,
            "error": error,
            "error_class": attempt.error_class,
            "statement": None if attempt.outcome is Outcome.APPLIED else attempt.statement,
        }
        if attempt.outcome is Outcome.APPLIED and attempt.requires:
            values["note"] = _requirement(attempt.requires)
        update = sa.update(self.table).where(self.table.c.id == attempt.id).values(values)
        return connection.execute(update).rowcount > 0

    def note(self, connection: sa.Connection, attempt: Attempt, note: str) -> None:
        """Record for other instances how far an attempt is; the caller commits."""
        connection.execute(sa.update(self.table).where(self.table.c.id == attempt.id).values(note=note))

    def fail(self, connection: sa.Connection, author: RunAuthor, attempt: Attempt, error: str) -> None:
        """Record the failure of an attempt, anew if its row was rolled back; the caller commits."""
        if not self.mark(connection, attempt, error):
            self.begin(connection, author, attempt)
            self.mark(connection, attempt, error)

    def stamped(
        self,
        connection: sa.Connection,
        author: RunAuthor,
        revisions: Mapping[str, frozenset[str]],
        note: str | None,
        contracts: Mapping[str, str],
    ) -> None:
        """Record revisions that the operator declares applied, with their parents and a note; the caller commits.

        Without a note, that of one of `contracts` says what it requires.

        The declaration also ends half-applied attempts.
        """
        for revision, parents in revisions.items():
            row = self.row(author, Attempt(revision, parents, "stamp", outcome=Outcome.STAMPED))
            row |= {"finished_at": NOW, "note": note or _requirement(contracts.get(revision))}
            connection.execute(sa.insert(self.table).values(row))
        self.settle(connection)

    @property
    def completed(self) -> sa.ScalarSelect[str | None]:
        """The heads for which `after` ran since the last revision was applied, undone or stamped."""
        c = self.table.c
        after = sa.case((c.direction == "after", c.revision))
        return sa.select(after).where(c.outcome.in_(GOOD)).order_by(c.id.desc()).limit(1).scalar_subquery()

    def backed_up(
        self, connection: sa.Connection, author: RunAuthor, revision: str, began: datetime, note: str
    ) -> None:
        """Record a backup of the database at `revision`, with `note` on how to restore it; the caller commits."""
        row = self.row(author, Attempt(revision, frozenset(), "backup", outcome=Outcome.BACKED_UP))
        row |= {"started_at": began, "finished_at": NOW, "note": note}
        connection.execute(sa.insert(self.table).values(row))

    def settle(self, connection: sa.Connection) -> None:
        """Turn half-applied attempts into interrupted ones, because the operator has repaired the schema."""
        half_applied = sa.update(self.table).where(self.table.c.outcome == Outcome.HALF_APPLIED)
        connection.execute(half_applied.values(outcome=Outcome.INTERRUPTED, finished_at=NOW))

    def row(self, author: RunAuthor, attempt: Attempt) -> dict[str, object]:
        """Return the values of a new row for `attempt`."""
        return {
            "revision": attempt.revision,
            "parents": " ".join(sorted(attempt.parents)),
            "direction": attempt.direction,
            "outcome": attempt.outcome,
            "instance": author.instance,
            "release": author.release,
        }


def _requirement(requires: str | None) -> str | None:
    return requires and json.dumps({_REQUIRES: requires})


def required(notes: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return what the contracts among revisions with notes require; other notes are not about that."""
    found: dict[str, str] = {}
    for revision, note in notes:
        with suppress(ValueError, TypeError, KeyError):
            found[revision] = json.loads(note)[_REQUIRES]
    return found


def json_of(names: Iterable[str]) -> str:
    """Return the names as the column `invalid_before` stores them."""
    return json.dumps(sorted(names))
