"""The command `plan`; it changes nothing in the database.

The revisions run in a clone of the schema, if one can be made, and otherwise in Alembic's offline mode. Those that are
applied already are executed offline too, for what they say of the tables and for the durations of their statements.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from alembic.script import Script

from ...assembly import Assembly
from ...core.protocols import MigrationRequest
from ...core.schema import Schema, SchemaState, explain
from ...databases.backend import TableSize
from ...inspection import read_session
from ...urls.database_url import DatabaseURL
from ..results import Result
from ..sql.rendering import Rendered, in_order, render
from ..sql.tables import Tables
from .confinement import confined
from .last_time import Key, LastTimes
from .planning import RevisionPlanner, key_of, read
from .report import MEASURED, PlannedRevision, PlannedStatement, PlanReport, counted, repeated_as_one
from .trial import Trial, try_out

_ROWS = 2_000
"""How many rows of the history are searched for the duration of a similar statement."""


async def plan(assembly: Assembly, schema: Schema, arguments: argparse.Namespace) -> Result:
    """Plan the upgrade of a database in the state `schema` to the target of `arguments`."""
    request, at = MigrationRequest("upgrade", arguments.revision), _start(assembly, schema)
    if not request.relative:
        assembly.revisions.resolve(request.target)
    if schema.state is SchemaState.EMPTY and assembly.policy.create_all:
        message = "the database is empty: upgrade creates the tables of the models (MIGRATION_BOOTSTRAP=create_all)"
        return PlanReport(message=message, sizes={})
    pending = assembly.runner.planned(request, at)
    if not pending:
        return PlanReport(message=f"nothing is pending: {explain(schema)}", sizes={})
    on = DatabaseURL.parse(arguments.on, name="--on") if arguments.on else None
    trial = Trial(why_not="of --rules") if arguments.rules else await try_out(assembly, request, at, on)
    planner = _Planner(assembly, pending, trial, full_sql=arguments.sql)
    with confined(f"{assembly.database.url.dialect}://no-database.invalid/none"):
        planner.walk()
    rows = await read_session(assembly, lambda session: session.store.runs(_ROWS))
    revisions = planner.planned(LastTimes(rows, planner.keys))
    return PlanReport(
        message=_message(schema, pending, trial, revisions),
        revisions=revisions,
        sizes=await _sizes(assembly, revisions),
        clone=trial.clone,
        why_by_rule=trial.why_not,
        leftovers=trial.leftovers,
    )


def _start(assembly: Assembly, schema: Schema) -> frozenset[str]:
    """Return the revisions from which the upgrade starts: an unversioned database is stamped with the baseline."""
    baseline = assembly.policy.baseline
    unversioned = schema.state is SchemaState.UNVERSIONED and baseline is not None
    return assembly.revisions.resolve(baseline) if unversioned and baseline else schema.revisions


@dataclass
class _Planner:
    """Walks through the revisions, oldest first, up to the last pending one."""

    assembly: Assembly
    pending: Sequence[str]
    trial: Trial
    full_sql: bool
    keys: dict[str, list[Key]] = field(default_factory=dict)
    """The kinds of the statements of each revision, with their tables."""
    _found: list[PlannedRevision] = field(default_factory=list)

    def walk(self) -> None:
        """Find the statements of each revision."""
        # what a revision reads of the tables while it is executed offline, and what the statements so far have made
        seen, known = Tables(), Tables()
        for script in in_order(self.assembly.revisions):
            rendered = self._rendered(script, seen)
            self.keys[script.revision] = list(map(key_of, rendered.statements))
            if script.revision in self.pending:
                self._found.append(self._planned(rendered, known))
            else:
                for statement in rendered.statements:
                    known.learn(statement.actions)
            if len(self._found) == len(self.pending):
                return

    def planned(self, past: LastTimes) -> list[PlannedRevision]:
        """Return the pending revisions, in the order of the upgrade, with the durations of similar ones."""
        in_turn = sorted(self._found, key=lambda one: self.pending.index(one.revision))
        return [_timed(revision, past) for revision in in_turn]

    @property
    def _own(self) -> set[str]:
        """The version table and the history table, which the package writes while a revision runs."""
        return {table.fullname for table in self.assembly.runner.tables}

    def _rendered(self, script: Script, seen: Tables) -> Rendered:
        dialect: Any = self.assembly.database.engine_url.get_dialect()
        return render(self.assembly.revisions, script, seen, dialect(paramstyle="named"))

    def _planned(self, rendered: Rendered, known: Tables) -> PlannedRevision:
        revision, recorder = rendered.script.revision, self.trial.recorder
        planner = RevisionPlanner(known, self.assembly.database.lock_rules, self.full_sql)
        title = self.assembly.revisions.describe(revision)
        if revision in recorder.finished:
            executed = [one for one in recorder.executed.get(revision, []) if key_of(read(one))[1] not in self._own]
            statements = [*planner.measured(executed), *planner.unreached(rendered.statements, executed)]
            return PlannedRevision(revision, title, repeated_as_one(statements))
        stopped = None if rendered.stopped is None else f"line {rendered.stopped_at} failed: {rendered.stopped}"
        return PlannedRevision(revision, title, repeated_as_one(planner.by_rule(rendered.statements)), stopped)


def _timed(revision: PlannedRevision, past: LastTimes) -> PlannedRevision:
    statements = [replace(one, last_time=past.of_statement(one.kind, one.table)) for one in revision.statements]
    return replace(revision, statements=statements, last_time=past.of_revision(revision.revision))


async def _sizes(assembly: Assembly, revisions: Sequence[PlannedRevision]) -> Mapping[str, TableSize]:
    """Return the sizes by the names of the plan; one without a schema may be in the schema of the version table."""
    names = {name for revision in revisions for statement in revision.statements for name in statement.tables}
    schema = assembly.settings.version_table_schema
    qualified = {name: f"{schema}.{name}" if schema and "." not in name else name for name in names}
    found = await assembly.database.table_sizes(sorted({*names, *qualified.values()}))
    sizes = {name: found.get(qualified[name], found.get(name)) for name in sorted(names)}
    return {name: size for name, size in sizes.items() if size is not None}


def _message(schema: Schema, pending: Sequence[str], trial: Trial, revisions: Sequence[PlannedRevision]) -> str:
    at = ", ".join(sorted(schema.revisions)) or "base"
    every: list[PlannedStatement] = [one for revision in revisions for one in revision.statements]
    how = "by rule"
    if trial.recorder.finished:
        verb = "measured" if any(one.how == MEASURED for one in every) else "by rule, and tried"
        now = "still there" if trial.clone in trial.leftovers else "dropped"
        how = f"{verb} in a clone of the schema ({trial.clone}, {now})"
    return f"upgrade would run {counted(len(pending), 'revision')} on the database, which is at {at}; {how}"
