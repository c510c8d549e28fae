"""What the version and history tables say on a database other than PostgreSQL, in SQLAlchemy's own words.

The same questions as `postgres/store.py` answers with one statement of PostgreSQL's each; here they take a few.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from ..core.protocols import PastAttempt
from ..core.schema import HalfApplied, Observed, Recorded
from ..execution.dialects import Now, aware, epoch
from ..execution.history_table import OPEN, RECENT_ROWS, SLACK_SECONDS, Outcome
from ..execution.table_shape import VERSION_COLUMN, OwnTables, Shape

_FAILED = (Outcome.FAILED, Outcome.INTERRUPTED, Outcome.HALF_APPLIED)


class SqlTables(OwnTables):
    """The reading half of a session; a table that is not there yet reads as empty. `known` are this build's ids."""

    def __init__(self, version: sa.Table, history: sa.Table, instance: str, known: Collection[str]) -> None:
        super().__init__((version.fullname, history.fullname), known)
        self._version_table = version
        self._version = sa.select(sa.column(VERSION_COLUMN, sa.String)).select_from(version)
        self._history = history
        self._instance = instance

    async def _rows_if_there(self, statement: sa.Executable) -> Sequence[sa.Row[Any]]:
        """The rows; none where a table is missing, or a column that an older history table lacks."""
        raise NotImplementedError

    async def _write(self, *statements: sa.Executable) -> None:
        """Execute and commit."""
        raise NotImplementedError

    async def observe(self) -> Observed:
        """The version table, what is half applied, the newest rows, the last success and failure."""
        revisions = await self._versions()
        await self._recognise_unless_known(revisions)
        newest = await self._newest(RECENT_ROWS)
        if not newest:
            return Observed(revisions)
        [ended] = await self._rows_if_there(self._ended())
        half = await self._rows_if_there(self._half_applied().order_by(self._history.c.id))
        known = tuple(HalfApplied(row.revision, row.statement) for row in half)
        recent = tuple(map(_recorded, newest))
        return Observed(revisions, known, epoch(ended.success), epoch(ended.failure), recent)

    async def lineage(self) -> Mapping[str, frozenset[str]]:
        """Parents of every revision in the history table."""
        c = self._history.c
        told = sa.select(c.revision, c.parents).where(c.direction.not_in(["backup", "unlock"])).distinct()
        return {row.revision: frozenset(row.parents.split()) for row in await self._rows_if_there(told)}

    async def attempts(self, pending: Sequence[str]) -> list[PastAttempt]:
        """The newest ten at any of `pending`."""
        c = self._history.c
        tried = (
            sa.select(self._history, Now().label("now"))
            .where(c.revision.in_(pending), c.direction.in_(["upgrade", "stamp"]), c.outcome != Outcome.RETRIED)
            .order_by(c.id.desc())
            .limit(10)
        )
        return [_past(row) for row in await self._rows_if_there(tried)]

    async def runs(self, limit: int) -> list[dict[str, Any]]:
        """The newest rows of the history table, newest first."""
        return [_as_dict(row) for row in await self._newest(limit)]

    async def invalid_indexes(self) -> list[str]:
        """None: only PostgreSQL has such."""
        return []

    async def half_applied(self) -> dict[str, Any] | None:
        """The newest half-applied attempt, if any."""
        rows = await self._rows_if_there(self._half_applied().order_by(self._history.c.id.desc()).limit(1))
        return _as_dict(rows[0]) if rows else None

    async def _fail_attempt(
        self,
        error: str,
        revision: str | None,
        parents: str = "",
        release: str | None = None,
        age_seconds: float = 0.0,
        error_class: str = "TimeoutError",
    ) -> None:
        # one that is half applied stays that; one that never came to be written down is now
        c = self._history.c
        mine = sa.select(self._history, Now().label("now")).where(c.instance == self._instance).order_by(c.id.desc())
        newest = next(iter(await self._rows_if_there(mine.limit(1))), None)
        told: dict[str, Any] = {"finished_at": Now(), "error": error, "error_class": error_class}
        this_one = _is_this_one(newest, revision, age_seconds)
        # where its lock went with its connection, the next holder may have closed it
        endings = {*OPEN, Outcome.INTERRUPTED} if this_one else {*OPEN}
        if newest is not None and newest.outcome in endings:
            told["outcome"] = sa.case((c.outcome == Outcome.HALF_APPLIED, c.outcome), else_=Outcome.FAILED)
            # the attempt may still be at work: what it writes down meanwhile stands
            still_open = (c.id == newest.id) & c.outcome.in_(endings)
            await self._write(sa.update(self._history).where(still_open).values(told))
        elif revision is not None and not this_one:
            told |= {"direction": "upgrade", "outcome": Outcome.FAILED, "instance": self._instance}
            told |= {"revision": revision, "parents": parents, "release": release}
            await self._write(sa.insert(self._history).values(told))

    async def _id_column(self) -> tuple[list[int | None], str]:
        """How many characters MySQL's `version_num` holds (empty where there is no such table), and its encoding."""
        version = self._version_table
        [row] = await self._rows_if_there(
            sa.text(
                "SELECT c.column_name AS found, c.character_maximum_length AS size, "
                "ifnull(c.character_set_name, @@character_set_database) AS encoding "
                "FROM (SELECT 1) one LEFT JOIN information_schema.columns c ON c.table_name = :name "
                "AND c.table_schema = ifnull(:schema, database()) AND c.column_name = 'version_num'"
            ).bindparams(schema=version.schema, name=version.name)
        )
        return ([] if row.found is None else [row.size]), row.encoding

    async def _versions(self) -> frozenset[str]:
        return frozenset(row[0] for row in await self._rows_if_there(self._version))

    async def _newest(self, limit: int) -> Sequence[sa.Row[Any]]:
        return await self._rows_if_there(sa.select(self._history).order_by(self._history.c.id.desc()).limit(limit))

    def _half_applied(self) -> sa.Select[Any]:
        return sa.select(self._history).where(self._history.c.outcome == Outcome.HALF_APPLIED)

    def _ended(self) -> sa.Select[Any]:
        c = self._history.c
        success = sa.case((c.outcome.in_([Outcome.APPLIED, Outcome.STAMPED]), c.finished_at))
        # when an interrupted one ended nobody knows
        ended = sa.case((c.outcome == Outcome.INTERRUPTED, c.started_at), else_=c.finished_at)
        failure = sa.case((c.outcome.in_(_FAILED), ended))
        return sa.select(sa.func.max(success).label("success"), sa.func.max(failure).label("failure"))


def shape(connection: sa.Connection, table: sa.Table) -> Shape | None:
    """What the database says of a table; None where it does not exist."""
    inspector, name, schema = sa.inspect(connection), table.name, table.schema
    if not inspector.has_table(name, schema=schema):
        return None
    # a server may write the name in another case
    views = {view.casefold() for view in inspector.get_view_names(schema=schema)}
    columns = frozenset(column["name"] for column in inspector.get_columns(name, schema=schema))
    return Shape(columns, name.casefold() not in views)


def _as_dict(row: sa.Row[Any]) -> dict[str, Any]:
    told = dict(row._mapping)
    return told | {name: aware(told[name]) for name in ("started_at", "finished_at")}


def _seconds(row: sa.Row[Any]) -> float | None:
    began, ended = epoch(row.started_at), epoch(row.finished_at)
    return None if began is None or ended is None else ended - began


def _recorded(row: sa.Row[Any]) -> Recorded:
    began = epoch(row.started_at) or 0.0
    return Recorded(row.revision, row.direction, row.outcome, row.instance, began, _seconds(row))


def _is_this_one(newest: sa.Row[Any] | None, revision: str | None, age_seconds: float) -> bool:
    # a restarted process may have the name of the one before it
    if newest is None or newest.revision != revision:
        return False
    return (epoch(newest.now) or 0.0) - (epoch(newest.started_at) or 0.0) < age_seconds + SLACK_SECONDS


def _past(row: sa.Row[Any]) -> PastAttempt:
    age = (epoch(row.now) or 0.0) - (epoch(row.finished_at or row.started_at) or 0.0)
    return PastAttempt(row.revision, row.outcome, row.instance, row.release, row.error, age)
