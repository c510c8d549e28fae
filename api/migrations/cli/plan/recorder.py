"""Records which locks each statement of the revisions acquires on PostgreSQL, and which tables it rewrites and reads.

Around each statement the recorder reads the session's own rows of `pg_locks`; a statement's locks are those that were
not there before. Only relations that existed before the transaction count: no other session can use a new one. A table
is rewritten if its file (`pg_relation_filenode`) is another one afterwards, and read if PostgreSQL counts a scan of it.
In autocommit the locks end with the statement, so nothing is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

import sqlalchemy as sa
from alembic.runtime.migration import MigrationContext

from ...execution.env_reading import NOTHING
from ...execution.steps import AlembicStep, StepPlan
from ..sql.rendering import line_in
from .confinement import reaches_beyond
from .lock_modes import Lock, LockMode
from .rules import Effect

_RELATIONS = """
    SELECT c.oid, CASE n.nspname WHEN 'public' THEN '' ELSE n.nspname || '.' END || c.relname, c.relkind::text,
           pg_relation_filenode(c.oid), pg_stat_get_xact_numscans(c.oid)
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname NOT IN ('pg_catalog', 'pg_toast', 'information_schema')
"""
_HELD = """
    SELECT relation, array_agg(mode), pg_relation_filenode(relation), pg_stat_get_xact_numscans(relation)
    FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'relation' AND granted
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) GROUP BY relation
"""
_INDEXES = {"i", "I"}


@dataclass(frozen=True)
class Executed:
    """A statement that a revision executed on the clone."""

    sql: str
    line: int
    transaction: int | None
    """The number of its transaction in the revision; None in autocommit."""
    effect: Effect | None = None
    """What was measured; None in autocommit, or if it was not executed."""
    skipped: bool = False
    """Whether it was not executed, because it reaches beyond the clone."""


@dataclass
class _Relation:
    name: str
    kind: str
    file: int | None
    scans: int
    modes: set[LockMode] = field(default_factory=set)
    """The modes that the transaction holds."""


class Recorder:
    """The statements of each revision, by its id, in the order of execution."""

    def __init__(self) -> None:
        self.executed: dict[str, list[Executed]] = {}
        self.finished: set[str] = set()
        """The revisions that were committed."""
        self._path = ""
        self._current: list[Executed] | None = None
        self._transaction = 0
        self._relations: dict[int, _Relation] | None = None
        """Those that existed before the transaction."""
        self._skipped: str | None = None
        """The statement that is not executed."""
        self._outdated = False
        """Whether a savepoint was rolled back, which may have released locks."""

    def watch(self, plan: StepPlan, connection: sa.Connection) -> StepPlan:
        """Return `plan` with each step's statements on `connection` recorded."""
        sa.event.listen(connection, "before_cursor_execute", self._before, retval=True)
        sa.event.listen(connection, "after_cursor_execute", self._after)
        sa.event.listen(connection, "commit", self._ended)
        sa.event.listen(connection, "rollback", self._ended)
        sa.event.listen(connection, "rollback_savepoint", self._rolled_back)

        def steps(heads: Any, context: MigrationContext | None) -> Iterator[AlembicStep]:
            for step in plan(heads, context):
                yield self._recorded(step)
                # Alembic requests the next step after it has committed this one
                self.finished.update(step.info.up_revision_ids)

        return steps

    def _recorded(self, step: AlembicStep) -> AlembicStep:
        migrate, revision = step.migration_fn, step.info.up_revision_ids[0]
        script = step.info.revision_map.get_revision(revision)

        @wraps(migrate)
        def recorded(**arguments: Any) -> None:
            self._path, self._transaction, self._relations = str(getattr(script, "path", "")), 0, None
            self._current = self.executed.setdefault(revision, [])
            try:
                migrate(**arguments)
            finally:
                self._current = None

        step.migration_fn = recorded
        return step

    def _before(
        self, connection: sa.Connection, _cursor: Any, statement: str, parameters: Any, *_: Any
    ) -> tuple[str, Any]:
        if self._current is None:
            return statement, parameters
        self._skipped = statement if reaches_beyond(statement) else None
        if not _autocommits(connection):
            self._look(connection)
        return (NOTHING, ()) if self._skipped else (statement, parameters)

    def _look(self, connection: sa.Connection) -> None:
        if self._relations is None:
            self._relations = {oid: _Relation(*values) for oid, *values in _fetch(connection, _RELATIONS)}
        elif self._outdated:
            held = {oid: _modes(names) for oid, names, *_ in _fetch(connection, _HELD)}
            for oid, relation in self._relations.items():
                relation.modes &= held.get(oid, set())
        self._outdated = False

    def _after(self, connection: sa.Connection, _cursor: Any, statement: str, *_: Any) -> None:
        if self._current is None:
            return
        number = None if _autocommits(connection) else self._transaction
        line, skipped = line_in(self._path), self._skipped
        effect = self._effect(_fetch(connection, _HELD)) if number is not None and skipped is None else None
        self._current.append(Executed(skipped or statement, line, number, effect, skipped is not None))

    def _effect(self, held: list[Any]) -> Effect:
        locks, rewrites, reads = [], [], []
        for oid, names, file, scans in held:
            relation = (self._relations or {}).get(oid)
            if relation is None:
                continue
            new, is_index = _modes(names) - relation.modes, relation.kind in _INDEXES
            locks += [Lock(relation.name, max(new), is_index)] if new else []
            if not is_index and file not in {None, relation.file}:
                rewrites.append(relation.name)
            elif not is_index and (scans or 0) > relation.scans:
                reads.append(relation.name)
            relation.modes |= new
            relation.file, relation.scans = file, scans or 0
        locks.sort(key=lambda each: (-each.mode, each.is_index, each.on))
        return Effect(tuple(locks), tuple(sorted(rewrites)), tuple(sorted(reads)))

    def _ended(self, *_: Any) -> None:
        self._relations = None
        self._transaction += 1

    def _rolled_back(self, *_: Any) -> None:
        self._outdated = True


def _modes(names: list[str]) -> set[LockMode]:
    return {LockMode.named(name) for name in names}


def _autocommits(connection: sa.Connection) -> bool:
    return connection.get_execution_options().get("isolation_level") == "AUTOCOMMIT"


def _fetch(connection: sa.Connection, sql: str) -> list[Any]:
    # on the driver's connection, because SQLAlchemy's events are for the revisions' own statements
    cursor = connection.connection.cursor()
    cursor.execute(sql)
    rows = list(cursor.fetchall())
    cursor.close()
    return rows
