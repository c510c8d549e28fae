"""Reads the version and history tables of MySQL, MariaDB and SQLite with SQLAlchemy.

`postgres/store.py` needs one statement for each method; this module needs several.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from ..core.protocols import ANSWER_SECONDS, TRIED, MigrationRequest, PastAttempt
from ..core.schema import HalfApplied, Observed, Recorded
from ..execution.dialects import Now, aware, epoch
from ..execution.error_translation import missing, translated
from ..execution.history_table import GOOD, OPEN, RECENT_ROWS, SLACK_SECONDS, Outcome, beside, required
from ..execution.runner import Runner
from ..execution.table_shape import VERSION_COLUMN, OwnTables, Shape
from ..execution.version_ids import IdColumn, refuse

_FAILED = (Outcome.FAILED, Outcome.INTERRUPTED, Outcome.HALF_APPLIED)


class SqlStore(OwnTables):
    """The store of a session.

    Args:
        connection: returns the session's connection, in autocommit, or raises `DatabaseUnreachable`.
        runner: has the tables and the revisions.
        lock_ends_with_connection: whether a cancelled attempt frees the lock before its end is recorded.
    """

    def __init__(
        self, connection: Callable[[], AsyncConnection], runner: Runner, *, lock_ends_with_connection: bool
    ) -> None:
        version, history = runner.tables
        names, known = (version.fullname, history.fullname), runner.revisions.code.parents
        super().__init__(names, known, expects_tables=runner.expects_tables)
        self._connection = connection
        self._runner = runner
        self._lock_ends_with_connection = lock_ends_with_connection
        self._version_table = version
        self._version = sa.select(sa.column(VERSION_COLUMN, sa.String)).select_from(version)
        self._history = history

    async def check_ids(self, request: MigrationRequest, revisions: frozenset[str]) -> None:
        """Refuse revision ids that are too long for MySQL's column; SQLite enforces no length."""
        ids, dialect = self._runner.doubtful_ids(request, revisions), self._connection().dialect
        if ids and dialect.name == "mysql":
            sizes, encoding = await self._id_column()
            table = dialect.identifier_preparer.format_table(self._version_table)
            refuse(ids, IdColumn.of(table, "mysql", encoding, sizes))

    async def record_timeout(self, error: str) -> None:
        """Record that this instance's attempt is about to be cancelled, if that frees the lock."""
        if self._lock_ends_with_connection:
            await self.record_failure(error, None)

    async def _observed(self) -> Observed:
        """Return the revisions, the half-applied ones, the newest rows, the last success and failure."""
        revisions = await self._versions()
        await self._recognise_unless_known(revisions)
        newest = await self._newest(RECENT_ROWS)
        if not newest:
            return Observed(revisions)
        [ended] = await self._rows(self._ended())
        half = await self._rows(self._half_applied().order_by(self._history.c.id))
        known = tuple(HalfApplied(row.revision, row.statement, beside=beside(row.note)) for row in half)
        recent = tuple(map(_recorded, newest))
        success, failure = epoch(ended.success), epoch(ended.failure)
        return Observed(revisions, known, success, failure, recent, completed=ended.completed)

    async def _other_tables(self) -> list[str]:
        # a server may write a name in another case
        own = {table.name.casefold() for table in self._runner.tables}
        async with answered("reading the tables"):
            names = await self._connection().run_sync(
                lambda connection: sa.inspect(connection).get_table_names(schema=self._version_table.schema)
            )
            await self._connection().rollback()
        return [name for name in names if name.casefold() not in own]

    async def lineage(self) -> Mapping[str, frozenset[str]]:
        """Return the parents of every revision in the history table."""
        c = self._history.c
        parents = sa.select(c.revision, c.parents).where(c.direction.in_(["upgrade", "downgrade", "stamp"])).distinct()
        return {row.revision: frozenset(row.parents.split()) for row in await self._rows(parents)}

    async def contracts(self) -> dict[str, str]:
        """Return what each contract revision in the history table requires."""
        c = self._history.c
        done = c.direction.in_(["upgrade", "stamp"]) & c.outcome.in_(GOOD) & c.note.is_not(None)
        return required(map(tuple, await self._rows(sa.select(c.revision, c.note).where(done))))

    async def attempts(self, pending: Sequence[str], directions: Sequence[str] = TRIED) -> list[PastAttempt]:
        """Return the newest ten attempts at any of `pending`."""
        c = self._history.c
        tried = (
            sa.select(self._history, Now().label("now"))
            .where(c.revision.in_(pending), c.direction.in_(directions), c.outcome != Outcome.RETRIED)
            .where((c.direction != "before") | (c.outcome != Outcome.APPLIED))
            .order_by(c.id.desc())
            .limit(10)
        )
        return [_past(row) for row in await self._rows(tried)]

    async def runs(self, limit: int) -> list[dict[str, Any]]:
        """Return the newest rows of the history table, newest first."""
        return [_as_dict(row) for row in await self._newest(limit)]

    async def invalid_indexes(self) -> list[str]:
        """Return none: only PostgreSQL has INVALID indexes."""
        return []

    async def half_applied(self) -> dict[str, Any] | None:
        """Return the newest half-applied attempt, if any."""
        rows = await self._rows(self._half_applied().order_by(self._history.c.id.desc()).limit(1))
        return _as_dict(rows[0]) if rows else None

    async def record_failure(
        self, error: str, revision: str | None, age_seconds: float = 0.0, error_class: str = "TimeoutError"
    ) -> None:
        """Record this instance's attempt as failed, unless it was applied after all."""
        # a half-applied attempt stays half applied; an attempt that was never recorded is inserted
        c, author = self._history.c, self._runner.author
        mine = sa.select(self._history, Now().label("now")).where(c.instance == author.instance).order_by(c.id.desc())
        newest = next(iter(await self._rows(mine.limit(1))), None)
        values: dict[str, Any] = {"finished_at": Now(), "error": error, "error_class": error_class}
        this_one = _is_this_one(newest, revision, age_seconds)
        # if the lock ended with the connection, the next holder may have marked the attempt as interrupted
        endings = {*OPEN, Outcome.INTERRUPTED} if this_one else {*OPEN}
        if newest is not None and newest.outcome in endings:
            values["outcome"] = sa.case((c.outcome == Outcome.HALF_APPLIED, c.outcome), else_=Outcome.FAILED)
            # the attempt may still run: what it records meanwhile stands
            still_open = (c.id == newest.id) & c.outcome.in_(endings)
            await self._write(sa.update(self._history).where(still_open).values(values))
        elif revision is not None and not this_one:
            values |= {"direction": "upgrade", "outcome": Outcome.FAILED, "instance": author.instance}
            parents = self._runner.revisions.code.parents.get(revision, frozenset())
            values |= {"revision": revision, "parents": " ".join(sorted(parents)), "release": author.release}
            await self._write(sa.insert(self._history).values(values))

    async def _id_column(self) -> tuple[list[int | None], str]:
        """Return how many characters MySQL's `version_num` holds, empty without a table, and its encoding."""
        version = self._version_table
        [row] = await self._rows(
            sa.text(
                "SELECT c.column_name AS found, c.character_maximum_length AS size, "
                "ifnull(c.character_set_name, @@character_set_database) AS encoding "
                "FROM (SELECT 1) one LEFT JOIN information_schema.columns c ON c.table_name = :name "
                "AND c.table_schema = ifnull(:schema, database()) AND c.column_name = 'version_num'"
            ).bindparams(schema=version.schema, name=version.name)
        )
        return ([] if row.found is None else [row.size]), row.encoding

    async def _versions(self) -> frozenset[str]:
        return frozenset(row[0] for row in await self._rows(self._version))

    async def _newest(self, limit: int) -> Sequence[sa.Row[Any]]:
        return await self._rows(sa.select(self._history).order_by(self._history.c.id.desc()).limit(limit))

    async def _rows(self, statement: sa.Executable) -> Sequence[sa.Row[Any]]:
        # none if the table, or a column that older releases lack, does not exist
        async with answered("reading the revision"):
            try:
                rows = (await self._connection().execute(statement)).all()
            except DBAPIError as error:
                if not missing(error):
                    raise
                rows = []
                await self._connection().rollback()
                await self._recognise_once()
            await self._connection().rollback()
            return rows

    async def _shapes(self) -> tuple[Shape | None, Shape | None]:
        async with answered("reading the tables"):
            version, history = [await self._connection().run_sync(shape, table) for table in self._runner.tables]
            await self._connection().rollback()
        return version, history

    async def _write(self, *statements: sa.Executable) -> None:
        async with answered("writing the history"):
            for statement in statements:
                await self._connection().execute(statement)
            await self._connection().rollback()  # in autocommit each is committed by now

    def _half_applied(self) -> sa.Select[Any]:
        return sa.select(self._history).where(self._history.c.outcome == Outcome.HALF_APPLIED)

    def _ended(self) -> sa.Select[Any]:
        c = self._history.c
        success = sa.case((c.outcome.in_([Outcome.APPLIED, Outcome.STAMPED]), c.finished_at))
        # when an interrupted attempt ended is not known
        ended = sa.case((c.outcome == Outcome.INTERRUPTED, c.started_at), else_=c.finished_at)
        failure = sa.case((c.outcome.in_(_FAILED), ended))
        ends: list[sa.ColumnElement[Any]] = [
            sa.func.max(success).label("success"),
            sa.func.max(failure).label("failure"),
            self._runner.history.completed.label("completed"),
        ]
        return sa.select(*ends)


def shape(connection: sa.Connection, table: sa.Table) -> Shape | None:
    """Return the shape of a table; None if it does not exist."""
    inspector, name, schema = sa.inspect(connection), table.name, table.schema
    if not inspector.has_table(name, schema=schema):
        return None
    # a server may write the name in another case
    views = {view.casefold() for view in inspector.get_view_names(schema=schema)}
    columns = frozenset(column["name"] for column in inspector.get_columns(name, schema=schema))
    return Shape(columns, name.casefold() not in views)


def _as_dict(row: sa.Row[Any]) -> dict[str, Any]:
    values = dict(row._mapping)
    return values | {name: aware(values[name]) for name in ("started_at", "finished_at")}


def _seconds(row: sa.Row[Any]) -> float | None:
    began, ended = epoch(row.started_at), epoch(row.finished_at)
    return None if began is None or ended is None else ended - began


def _recorded(row: sa.Row[Any]) -> Recorded:
    began = epoch(row.started_at) or 0.0
    return Recorded(row.revision, row.direction, row.outcome, row.instance, began, _seconds(row))


def _is_this_one(newest: sa.Row[Any] | None, revision: str | None, age_seconds: float) -> bool:
    # a restarted process may have the name of its predecessor
    if newest is None or newest.revision != revision:
        return False
    return (epoch(newest.now) or 0.0) - (epoch(newest.started_at) or 0.0) < age_seconds + SLACK_SECONDS


def _past(row: sa.Row[Any]) -> PastAttempt:
    age = (epoch(row.now) or 0.0) - (epoch(row.finished_at or row.started_at) or 0.0)
    return PastAttempt(row.revision, row.outcome, row.instance, row.release, row.error, age)


@asynccontextmanager
async def answered(doing: str) -> AsyncIterator[None]:
    """Raise each error of the block as a `MigrationError`, and limit the block to `ANSWER_SECONDS`."""
    async with translated(doing), asyncio.timeout(ANSWER_SECONDS):
        yield
