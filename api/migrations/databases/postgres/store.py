"""Reads the version and history tables, and records a failed attempt outside a run.

Each method needs one or a few statements in autocommit. A table that does not exist reads as empty.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Any

import asyncpg

from ...core.protocols import ANSWER_SECONDS, TRIED, MigrationRequest, PastAttempt
from ...core.schema import HalfApplied, Observed, Recorded
from ...execution.error_translation import translated
from ...execution.history_table import COMPLETED, ENDED, OPEN, RECENT, SLACK_SECONDS, Outcome, beside, required
from ...execution.invalid_indexes import INVALID_INDEXES
from ...execution.runner import Runner
from ...execution.table_shape import VERSION_COLUMN, OwnTables, Shape
from ...execution.version_ids import IdColumn, refuse
from ...text.encoding import UTF8, restored, storable
from .connection import encodings, quoted
from .retry_pause import NEWEST

SHAPES = """
    SELECT c.relkind IN ('r', 'p') AS ordinary, ARRAY(
        SELECT attname::text FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped
    ) AS columns
    FROM unnest($1::text[]) WITH ORDINALITY AS named (name, position) LEFT JOIN pg_class c ON c.oid = to_regclass(name)
    ORDER BY position
"""
"""The shapes of the tables with the quoted names; NULLs for a table that does not exist."""
OTHER_TABLES = """
    SELECT c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = coalesce($1::text, current_schema()) AND c.relkind IN ('r', 'p', 'f')
    AND NOT c.relispartition AND c.relname <> ALL($2::text[]) AND NOT EXISTS (
        SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'
    )
"""
"""The tables of a schema that no extension owns, but those with the given names."""


class PostgresStore(OwnTables):
    """The store of a session.

    Args:
        look: yields the session's connection for a query whose failure does not abort the transaction.
        runner: has the tables and the revisions.
    """

    def __init__(self, look: Callable[[], AbstractAsyncContextManager[asyncpg.Connection]], runner: Runner) -> None:
        self._version, self._history = map(quoted, runner.tables)
        known = runner.revisions.code.parents
        super().__init__((self._version, self._history), known, expects_tables=runner.expects_tables)
        self._look = look
        self._runner = runner
        self._encodings: tuple[str, ...] = UTF8

    async def check_ids(self, request: MigrationRequest, revisions: frozenset[str]) -> None:
        """Refuse revision ids that are too long for the version table's column."""
        ids = self._runner.doubtful_ids(request, revisions)
        if ids:
            sizes = await self._id_sizes()
            refuse(ids, IdColumn.of(self._version, "postgresql", self._encodings[-1], sizes))

    async def newest_attempt(self) -> asyncpg.Record | None:
        """Return the newest row, and after a contended attempt all sessions; see `retry_pause`."""
        rows = await self._rows_if_there(NEWEST.format(history=self._history))
        return rows[0] if rows else None

    async def record_timeout(self, error: str) -> None:
        """Record that this instance's attempt is about to be cancelled."""
        await self.record_failure(error, None)

    async def _rows_if_there(self, sql: str, *arguments: Any) -> list[asyncpg.Record]:
        """Return the rows; none if the table, or a column that older releases lack, does not exist."""
        async with translated("reading the revision"):
            try:
                async with self._look() as connection:
                    self._encodings = encodings(connection)
                    return list(await connection.fetch(sql, *map(self._stored, arguments), timeout=ANSWER_SECONDS))
            except asyncpg.UndefinedTableError:
                return []
            except asyncpg.UndefinedColumnError:
                await self._recognise_once()
                return []

    def _stored(self, argument: Any) -> Any:
        if isinstance(argument, (list, tuple)):
            return [self._stored(each) for each in argument]
        return storable(argument, self._encodings) if isinstance(argument, str) else argument

    async def _shapes(self) -> tuple[Shape | None, Shape | None]:
        rows = await self._rows_if_there(SHAPES, [self._version, self._history])
        version, history = (
            None if row["ordinary"] is None else Shape(frozenset(row["columns"]), row["ordinary"]) for row in rows
        )
        return version, history

    async def _versions(self) -> frozenset[str]:
        rows = await self._rows_if_there(f"SELECT {VERSION_COLUMN}::text FROM {self._version}")
        return frozenset(row[0] for row in rows)

    async def _observed(self) -> Observed:
        """Return the revisions, the half-applied ones, the newest rows, the last success and failure, in one query."""
        versions = f"ARRAY(SELECT version_num::text FROM {self._version})"
        half = f"ARRAY(SELECT revision::text FROM {self._history} WHERE outcome = '{Outcome.HALF_APPLIED}' ORDER BY id)"
        # before the first run of this package, the history table does not exist
        ended = f"FROM (SELECT {ENDED} FROM {self._history}) ended"
        # as text: once SQLAlchemy has used a connection, asyncpg decodes JSON by itself
        recent = f"(SELECT json_agg(r)::text FROM ({RECENT.format(history=self._history)}) r)"
        completed = COMPLETED.format(history=self._history)
        for rest in (
            f"{half}, success, failure, {recent}, {completed} {ended}",
            "'{}'::text[], NULL, NULL, NULL, NULL",
        ):
            rows = await self._rows_if_there(f"SELECT {versions}, {rest}")
            if rows:
                revisions, half_applied, success, failure, newest, done = rows[0]
                recorded = tuple(map(_recorded, json.loads(newest or "[]")))
                known = await self._half_applied(half_applied)
                await self._recognise_unless_known(frozenset(revisions))
                return Observed(frozenset(revisions), known, success, failure, recorded, completed=done)
        await self._recognise_once()
        return Observed()

    async def _other_tables(self) -> list[str]:
        version, history = self._runner.tables
        return [row[0] for row in await self._rows_if_there(OTHER_TABLES, version.schema, [version.name, history.name])]

    async def lineage(self) -> Mapping[str, frozenset[str]]:
        """Return the parents of every revision in the history table."""
        rows = await self._rows_if_there(
            f"SELECT DISTINCT revision, parents FROM {self._history} "
            "WHERE direction IN ('upgrade', 'downgrade', 'stamp')"
        )
        return {row["revision"]: frozenset(row["parents"].split()) for row in rows}

    async def contracts(self) -> dict[str, str]:
        """Return what each contract revision in the history table requires."""
        rows = await self._rows_if_there(
            f"SELECT DISTINCT revision, note FROM {self._history} "
            f"WHERE direction IN ('upgrade', 'stamp') AND outcome IN ('{Outcome.APPLIED}', '{Outcome.STAMPED}') "
            "AND note IS NOT NULL"
        )
        return required((row["revision"], row["note"]) for row in rows)

    async def attempts(self, pending: Sequence[str], directions: Sequence[str] = TRIED) -> list[PastAttempt]:
        """Return the newest ten attempts at any of `pending`: behind a pooler they fail together."""
        rows = await self._rows_if_there(
            "SELECT revision, outcome, instance, release, error, "
            "extract(epoch FROM clock_timestamp() - coalesce(finished_at, started_at))::float8 AS age_seconds "
            f"FROM {self._history} WHERE revision = ANY($1) AND direction = ANY($2) "
            f"AND outcome <> '{Outcome.RETRIED}' AND NOT (direction = 'before' AND outcome = '{Outcome.APPLIED}') "
            "ORDER BY id DESC LIMIT 10",
            pending,
            list(directions),
        )
        return [self._past(PastAttempt(**dict(row))) for row in rows]

    async def runs(self, limit: int) -> list[asyncpg.Record]:
        """Return the newest rows of the history table, newest first."""
        await self._recognise_once()
        return await self._rows_if_there(f"SELECT * FROM {self._history} ORDER BY id DESC LIMIT $1", limit)

    async def invalid_indexes(self) -> list[str]:
        """Return the quoted names of the INVALID indexes, which concurrent builds left behind."""
        return [row[0] for row in await self._rows_if_there(INVALID_INDEXES)]

    async def half_applied(self) -> asyncpg.Record | None:
        """Return the newest half-applied attempt, if any."""
        rows = await self._rows_if_there(
            f"SELECT * FROM {self._history} WHERE outcome = '{Outcome.HALF_APPLIED}' ORDER BY id DESC LIMIT 1"
        )
        return rows[0] if rows else None

    async def _id_sizes(self) -> list[int | None]:
        """Return how many characters `version_num` holds, None for any number; empty without a table."""
        rows = await self._rows_if_there(
            "SELECT CASE WHEN atttypmod > 4 THEN atttypmod - 4 END FROM pg_attribute "
            "WHERE attrelid = to_regclass($1) AND attname = 'version_num'",
            self._version,
        )
        return [row[0] for row in rows]

    def _past(self, past: PastAttempt) -> PastAttempt:
        # the database may store this build's release with characters replaced, or cut
        own = self._runner.author.release
        release = own if own is not None and past.release == self._stored(own)[:255] else past.release
        error = None if past.error is None else restored(past.error)
        return replace(past, release=release, instance=restored(past.instance), error=error)

    async def record_failure(
        self, error: str, revision: str | None, age_seconds: float = 0.0, error_class: str = "TimeoutError"
    ) -> None:
        """Record this instance's attempt as failed, unless it was applied after all."""
        parents = self._runner.revisions.code.parents.get(revision or "", frozenset())
        still_open = ", ".join(f"'{outcome}'" for outcome in OPEN)
        # A half-applied attempt stays half applied. A row that was rolled back with its transaction is inserted again.
        # If the lock ended with the connection, the next holder may have marked the attempt as interrupted.
        await self._rows_if_there(
            f"WITH open AS (UPDATE {self._history} SET finished_at = clock_timestamp(), error = $1::text, "
            "error_class = $7::text, "
            f"outcome = CASE outcome WHEN '{Outcome.HALF_APPLIED}' THEN outcome ELSE '{Outcome.FAILED}' END "
            f"WHERE id = (SELECT max(id) FROM {self._history} WHERE instance = left($2::text, 255)) "
            f"AND (outcome IN ({still_open}) OR outcome = '{Outcome.INTERRUPTED}' AND revision = $3::text "
            "AND started_at > clock_timestamp() - $6::float8 * interval '1 s') RETURNING id) "
            f"INSERT INTO {self._history} "
            "(direction, outcome, error_class, finished_at, error, instance, revision, parents, release) "
            f"SELECT 'upgrade', '{Outcome.FAILED}', $7::text, clock_timestamp(), "
            "$1::text, left($2::text, 255), $3::text, $4::text, left($5::text, 255) "
            "WHERE $3::text IS NOT NULL AND NOT EXISTS (SELECT FROM open) AND NOT EXISTS "
            f"(SELECT FROM {self._history} WHERE instance = left($2::text, 255) AND revision = $3::text "
            "AND started_at > clock_timestamp() - $6::float8 * interval '1 s') RETURNING id",
            error,
            self._runner.author.instance,
            revision,
            " ".join(sorted(parents)),
            self._runner.author.release,
            age_seconds + SLACK_SECONDS,
            error_class,
        )

    async def _half_applied(self, revisions: Sequence[str]) -> tuple[HalfApplied, ...]:
        if not revisions:
            return ()
        now = frozenset(await self.invalid_indexes())
        rows = await self._rows_if_there(
            f"SELECT revision, statement, invalid_before, note FROM {self._history} "
            f"WHERE outcome = '{Outcome.HALF_APPLIED}' ORDER BY id"
        )
        known = {row["revision"]: _half(now, row) for row in rows}
        # an older table lacks these columns, so only the name is known
        return tuple(known.get(revision, HalfApplied(revision)) for revision in revisions)


def _recorded(row: dict[str, Any]) -> Recorded:
    return Recorded(**{**row, "instance": restored(row["instance"])})


def _half(invalid: frozenset[str], row: asyncpg.Record) -> HalfApplied:
    return HalfApplied(row["revision"], row["statement"], _new(invalid, row), beside(row["note"]))


def _new(invalid: frozenset[str], row: asyncpg.Record) -> tuple[str, ...]:
    return tuple(sorted(invalid - frozenset(json.loads(row["invalid_before"] or "[]"))))
