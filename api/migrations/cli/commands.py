"""The commands of `migrate.sh`; each returns a `Result` or raises a `MigrationError`, and its docstring is its help."""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from ..assembly import Assembly
from ..core.protocols import MigrationRequest, OperatorSession
from ..core.schema import UNCLEAR, Schema, SchemaState, explain, invalid_index_advice
from ..databases.backend import Verdict
from ..errors import COMMAND, ConfigurationError, NotAtHead, SchemaRefused
from ..inspection import leader, read_schema, read_session, read_status
from ..settings import Strategy
from .countdown import countdown_of
from .doctor import examine
from .each_scope import in_each_scope
from .results import Attempts, Backups, Findings, Plan, Result, SchemaReport, StatusReport, attempt, retries_as_one

if TYPE_CHECKING:
    from ..databases.backups.backup import Backup  # optional

_RETRIES = 500
"""How many more rows of the history are read than shown, because the retries of a revision are shown as one."""


async def upgrade(assembly: Assembly, arguments: argparse.Namespace) -> Result:
    """Apply the pending revisions, up to the head or to a revision."""
    if arguments.to and not arguments.backup:
        raise ConfigurationError("--to is the folder of a backup and needs --backup. To fix: add --backup")
    to_head = arguments.revision in {"head", "heads"}
    if arguments.backup or not to_head:
        assembly = await assembly.inspect(create_file=True)
    saved = assembly.backup(arguments.to) if arguments.backup else None
    policy = replace(assembly.policy, may_migrate=True, despite_instances=arguments.ignore_old_instances)
    if to_head:
        policy = replace(policy, backs_off=False, target=arguments.revision)
        await assembly.coordinator(policy, saved).become_ready()
    else:
        request = MigrationRequest("upgrade", arguments.revision, despite_instances=policy.despite_instances)
        if not request.relative:
            assembly.revisions.resolve(request.target)
        await assembly.coordinator(policy, saved).execute(request)
    return replace(_report(assembly), **(_backups(assembly, saved) if saved else {}))


async def backup(assembly: Assembly, arguments: argparse.Namespace) -> Result:
    """Back up the database under the lock, and print the command that restores it.

    PostgreSQL: with pg_dump. SQLite: a copy of the file. MySQL and MariaDB: refused; use mysqldump.
    """
    assembly = await assembly.inspect()
    saved, policy = assembly.backup(arguments.to), replace(assembly.policy, may_migrate=False)
    await assembly.coordinator(policy, saved).execute(MigrationRequest("backup", ""))
    return SchemaReport(message=explain(assembly.tracker.status.schema), **_backups(assembly, saved))


async def plan_downgrade(assembly: Assembly, arguments: argparse.Namespace) -> Plan:
    """Return the revisions that a downgrade would undo; changes nothing."""
    assembly = await assembly.inspect()
    if assembly.further and MigrationRequest("downgrade", arguments.revision).relative:
        raise ConfigurationError(
            f"{arguments.revision} is relative, but env.py runs the revisions for several version tables: "
            f"{', '.join(assembly.each)}. To fix: name the revision that stays"
        )
    plans = {name: await _plan_downgrade(one, arguments) for name, one in assembly.each.items()}
    if not assembly.further:
        return next(iter(plans.values()))
    return Plan(tuple(f"{name}: {step}" for name, plan in plans.items() for step in plan.steps), None)


async def _plan_downgrade(assembly: Assembly, arguments: argparse.Namespace) -> Plan:
    schema = await _known_schema(assembly)
    plan = assembly.runner.planned(MigrationRequest("downgrade", arguments.revision), schema.revisions)
    below = assembly.revisions.code.parents[plan[-1]] if plan else frozenset()
    # the run undoes what the person confirmed, even if the database changes meanwhile; below a merge there are several
    return Plan(plan, "base" if not below else next(iter(below)) if len(below) == 1 else None)


async def downgrade(assembly: Assembly, arguments: argparse.Namespace) -> Result:
    """Undo all revisions above the one that stays, or the last N (`-N`)."""
    assembly = await assembly.inspect()
    await assembly.coordinator().execute(MigrationRequest("downgrade", arguments.revision))
    return _report(assembly)


async def stamp(assembly: Assembly, arguments: argparse.Namespace) -> Result:
    """Set the database's revision without running anything."""
    assembly = await assembly.inspect(create_file=True)
    assembly.revisions.resolve(arguments.revision)
    await assembly.operator_coordinator().execute(MigrationRequest("stamp", arguments.revision))
    return _report(assembly)


@in_each_scope
async def repair(assembly: Assembly, arguments: argparse.Namespace) -> Result:
    """Repair a half-applied revision: allow it to run again, or declare it done."""
    half = await read_session(assembly, lambda session: session.store.half_applied())
    if half is None:
        return Result(message="no revision is half applied, so there is nothing to repair")
    if arguments.rerun:
        await assembly.coordinator().execute(MigrationRequest("repair", half["revision"], repairs=half["revision"]))
        return Result(message=f"{half['revision']} may run again: {COMMAND} {half['direction']}")
    if half["direction"] == "downgrade" and " " in half["parents"]:
        raise ConfigurationError(
            f"{half['revision']} merges several revisions. To fix: name the one that stays with '{COMMAND} stamp'"
        )
    done = half["revision"] if half["direction"] == "upgrade" else half["parents"].split(" ")[0] or "base"
    await assembly.coordinator().execute(MigrationRequest("stamp", done, repairs=half["revision"]))
    return _report(assembly)


async def wait(assembly: Assembly, arguments: argparse.Namespace) -> Result:
    """Wait until the database is at head; never migrate."""
    await assembly.coordinator(replace(assembly.policy, may_migrate=False)).become_ready()
    return _report(assembly)


@in_each_scope
async def current(assembly: Assembly, arguments: argparse.Namespace) -> Result:
    """Show the revision of the database."""
    schema = await read_session(assembly, partial(read_schema, assembly))
    return SchemaReport(revisions=sorted(schema.revisions), state=schema.state, message=explain(schema))


@in_each_scope
async def check(assembly: Assembly, arguments: argparse.Namespace) -> Result:
    """Exit with 0 at head, 3 if not, 7 if unversioned, ahead, diverged or dirty.

    With --for-rollback it says instead whether an older release may run on the schema as it is: exit with 0 if it may,
    7 if it may not or nothing proves that it may, 3 if it has revisions that the database lacks, 2 if it is not known.
    """
    if arguments.for_rollback is not None:
        from .rollback import check_rollback  # the other commands need less of Alembic, or nothing

        return await check_rollback(assembly, arguments.for_rollback)
    schema = await refuse_unless_at_head(assembly)
    return SchemaReport(state=schema.state, message=explain(schema))


async def refuse_unless_at_head(assembly: Assembly) -> Schema:
    """Return the state of the database, which is at head; otherwise raise `NotAtHead` or `SchemaRefused`."""
    schema = await _known_schema(assembly)
    if not assembly.policy.satisfied(schema):
        raise NotAtHead(f"{explain(schema)}. To fix: run '{COMMAND} upgrade'")
    return schema


@in_each_scope
async def history(assembly: Assembly, arguments: argparse.Namespace) -> Result:
    """Show attempts, newest first: revision, instance, time, duration and result; retries are one row."""
    rows = await read_session(assembly, lambda session: session.store.runs(arguments.limit + _RETRIES))
    rows = retries_as_one(rows)[: arguments.limit]
    return Attempts(history=[attempt(row, assembly.revisions.describe(row["revision"])) for row in rows])


@in_each_scope
async def unlock(assembly: Assembly, arguments: argparse.Namespace) -> Result:
    """Terminate the session that holds the lock, unless it makes progress (--force overrides).

    On MySQL, MariaDB and SQLite it terminates nothing: it prints which session or process holds the lock, and what
    releases the lock.
    """
    new_session, history = partial(assembly.session, "reading"), assembly.runner.tables[1]
    ended = await assembly.database.end_holder(new_session, history, force=arguments.force)
    if ended is not None:
        message = f"terminated session {ended.pid} of {ended.instance}; its open transaction is rolled back"
    elif (elected := await leader(assembly)) is None:
        message = "no session holds the lock, so there is nothing to do"
    else:
        settings, by_redis = assembly.settings, assembly.choice.strategy is Strategy.REDIS
        seconds = settings.redis_ttl_seconds if by_redis else settings.lease_seconds
        message = (
            f"no session holds the database's lock, but {elected} is elected to acquire it; if that instance is dead, "
            f"another one is elected within {seconds:g} s, so there is nothing to do"
        )
    return Result(message=message)


async def doctor(assembly: Assembly, arguments: argparse.Namespace) -> Result:
    """Check the environment and say what to fix; exit with 1 if a check fails."""
    findings = await examine(assembly)
    failed = sum(finding.verdict is Verdict.FAIL for finding in findings)
    warned = sum(finding.verdict is Verdict.WARN for finding in findings)
    return Findings(findings=findings, message=f"{len(findings)} checks, {failed} failed, {warned} with a warning")


@in_each_scope
async def status(assembly: Assembly, arguments: argparse.Namespace) -> Result:
    """Show the state of the database, the lock holder, what blocks it, and the other instances; changes nothing."""
    from ..core.advice import advise  # the other commands give none

    async def look(session: OperatorSession) -> Result:
        now, elected = await read_status(assembly, session), await leader(assembly)
        schema, seen = now.schema, now.lock_status
        run = await session.store.runs(_RETRIES) if seen.holder else ()
        return StatusReport(
            state=schema.state,
            message=explain(schema),
            revisions=sorted(schema.revisions),
            expected_heads=sorted(schema.heads),
            pending=[assembly.revisions.describe(revision) for revision in schema.pending],
            lock={"key": now.lock_key, "holder": seen.holder},
            statement=seen.statement,
            retry=seen.retry,
            blocked_by=seen.blocked_by,
            elected={"leader": elected, "hold": assembly.hold or ""} if elected else None,
            fleet=seen.fleet,
            grant=seen.grant,
            invalid_indexes=now.invalid_indexes,
            countdown=countdown_of(seen, run, assembly.policy.run_seconds),
            advice=advise(now, time.time()),
        )

    return await read_session(assembly, look)


async def revision(assembly: Assembly, arguments: argparse.Namespace) -> Result:
    """Write a revision file from the difference between the models and the database, and print its path.

    The database must be at head. Without a difference no file is written.
    """
    from .new_revision import write_revision  # the other commands need less of Alembic, or nothing

    return await write_revision(assembly, arguments)


def adopt(arguments: argparse.Namespace) -> Result:
    """Look at the project in the current folder and show what to change; needs no database.

    Each change is shown as a unified diff. --write makes the change of the application's lifespan, if there is one
    application and the file is what it was, and adds `fleet = true` for the installed package; the other changes are
    decisions. In a copied folder --write also records the version and the hash of each file. --update FOLDER compares
    them with a newer folder of the package, shows what was changed here, and with --write replaces the other files.
    """
    from .adopt.command import look

    return look(arguments)


def lint(arguments: argparse.Namespace) -> Result:
    """Say what revisions will do to readers and writers while the old release serves; exit with 1 for findings.

    It executes upgrade() in Alembic's offline mode for PostgreSQL and reads the revision files; it changes nothing.
    Without arguments it checks the pending revisions, or all if it cannot read the database. A comment
    `# lint: ignore[rule-id] reason` on the line or above it suppresses a finding.
    """
    from .lint.command import lint  # the other commands need less of Alembic, or nothing

    return lint(arguments)


@in_each_scope
async def plan(assembly: Assembly, arguments: argparse.Namespace) -> Result:
    """Show what `upgrade` would do: statements, table locks, rewrites, sizes of tables; changes nothing.

    On PostgreSQL the pending revisions run in a clone of the schema, a temporary database without rows that is dropped
    again: what they lock and rewrite is measured there. Without a clone, and on other databases, plan goes by rules.
    """
    from .plan.command import plan  # the other commands need less of Alembic, or nothing

    return await plan(assembly, await _known_schema(assembly), arguments)


async def _known_schema(assembly: Assembly) -> Schema:
    schema = await read_session(assembly, partial(read_schema, assembly))
    if schema.state in UNCLEAR and not (schema.state is SchemaState.UNVERSIONED and assembly.policy.baseline):
        raise SchemaRefused(explain(schema))
    return schema


def _backups(assembly: Assembly, backup: Backup) -> dict[str, Any]:
    backups = Backups(made=backup.made, restores_into=backup.restores_into)
    return {"backups": backups, "dialect": assembly.database.url.dialect}


def _report(assembly: Assembly) -> SchemaReport:
    status, run = assembly.tracker.status, assembly.tracker.status.last_run
    invalid = [invalid_index_advice(status.invalid_indexes)] if status.invalid_indexes else []
    return SchemaReport(
        state=status.schema.state,
        revisions=sorted(status.schema.revisions),
        steps=[assembly.revisions.describe(revision) for revision in run.applied] if run else [],
        message="; ".join([explain(status.schema), *invalid]),
    )
