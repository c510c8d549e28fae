"""What each command of `migrate.sh` does; each returns what is to be shown, or raises a `MigrationError`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from functools import partial, wraps
from typing import TYPE_CHECKING, Any

from ..assembly import Assembly
from ..core.protocols import MigrationRequest, OperatorSession
from ..core.schema import SchemaState, explain, invalid_index_advice
from ..databases.backend import Verdict
from ..errors import ConfigurationError, MigrationError, NotAtHead, SchemaRefused
from ..inspection import leader, read_schema, read_session
from ..settings import Strategy
from ..text.encoding import restored
from .doctor import examine

if TYPE_CHECKING:
    from ..databases.backups.backup import Backup  # optional

Result = dict[str, Any]
Command = Callable[[Assembly, argparse.Namespace], Awaitable[Result]]


def _in_each_schema(command: Command) -> Command:
    """`command`, for each version table that env.py names: most often one."""

    @wraps(command)
    async def each(assembly: Assembly, arguments: argparse.Namespace) -> Result:
        assembly = await assembly.inspect()
        if not assembly.further:
            return await command(assembly, arguments)
        results = {name: await _in_schema(name, command(one, arguments)) for name, one in assembly.each.items()}
        message = "; ".join(f"{name}: {result['message']}" for name, result in results.items() if "message" in result)
        return {"schemas": results, "message": message}

    return each


async def _in_schema(name: str, work: Awaitable[Result]) -> Result:
    try:
        return await work
    except MigrationError as error:
        error.args = (f"schema {name}: {error}", *error.args[1:])
        raise


_UNCLEAR = {SchemaState.AHEAD, SchemaState.DIVERGED, SchemaState.DIRTY}


async def upgrade(assembly: Assembly, arguments: argparse.Namespace) -> Result:
    """Apply what is pending: to the head as an instance does at start, or to a revision."""
    if arguments.to and not arguments.backup:
        raise ConfigurationError("--to names the folder of a backup; add --backup")
    at_once = arguments.revision in {"head", "heads"} and not arguments.backup
    assembly = assembly if at_once else await assembly.inspect(create_file=True)
    saved = assembly.backup(arguments.to) if arguments.backup else None
    if arguments.revision in {"head", "heads"}:
        policy = replace(assembly.policy, may_migrate=True, backs_off=False, target=arguments.revision)
        await assembly.coordinator(policy, saved).become_ready()
    else:
        request = MigrationRequest("upgrade", arguments.revision)
        if not request.relative:
            assembly.revisions.resolve(request.target)
        await assembly.coordinator(replace(assembly.policy, may_migrate=True), saved).execute(request)
    return _outcome(assembly) | (_backups(assembly, saved) if saved else {})


async def backup(assembly: Assembly, arguments: argparse.Namespace) -> Result:
    """Back the database up while nobody migrates it; says how to restore it, and never does.

    PostgreSQL: with pg_dump. SQLite: a copy of the file. MySQL and MariaDB: refused, take one with mysqldump.
    """
    assembly = await assembly.inspect()
    saved = assembly.backup(arguments.to)
    await assembly.coordinator(replace(assembly.policy, may_migrate=False), saved).execute(
        MigrationRequest("backup", "")
    )
    return {"message": explain(assembly.tracker.status.schema), **_backups(assembly, saved)}


async def plan_downgrade(assembly: Assembly, arguments: argparse.Namespace) -> Result:
    """The revisions that a downgrade would undo, newest first; nothing is changed."""
    assembly = await assembly.inspect()
    if not assembly.further:
        return await _plan_downgrade(assembly, arguments)
    if MigrationRequest("downgrade", arguments.revision).relative:
        raise ConfigurationError(
            f"{arguments.revision} counts from where each schema is, and env.py runs the revisions for "
            f"{', '.join(assembly.each)}. To fix: name the revision that stays"
        )
    plans = {name: await _plan_downgrade(one, arguments) for name, one in assembly.each.items()}
    return {"plan": [f"{name}: {step}" for name, plan in plans.items() for step in plan["plan"]], "stays": None}


async def _plan_downgrade(assembly: Assembly, arguments: argparse.Namespace) -> Result:
    schema = await read_session(assembly, partial(read_schema, assembly))
    if schema.state in _UNCLEAR:
        raise SchemaRefused(explain(schema))
    plan = assembly.runner.planned(MigrationRequest("downgrade", arguments.revision), schema.revisions)
    below = assembly.revisions.code.parents[plan[-1]] if plan else frozenset()
    # what was shown is what is done, wherever the database is by then; only a merge has no single revision below
    return {"plan": plan, "stays": "base" if not below else next(iter(below)) if len(below) == 1 else None}


async def downgrade(assembly: Assembly, arguments: argparse.Namespace) -> Result:
    """Undo revisions down to one that stays, or the last N (`-N`)."""
    assembly = await assembly.inspect()
    await assembly.coordinator().execute(MigrationRequest("downgrade", arguments.stays or arguments.revision))
    return _outcome(assembly)


async def stamp(assembly: Assembly, arguments: argparse.Namespace) -> Result:
    """Declare the database to be at a revision without running anything."""
    assembly = await assembly.inspect(create_file=True)
    assembly.revisions.resolve(arguments.revision)
    await assembly.operator_coordinator().execute(MigrationRequest("stamp", arguments.revision))
    return _outcome(assembly)


@_in_each_schema
async def repair(assembly: Assembly, arguments: argparse.Namespace) -> Result:
    """Go on after a half-applied revision: run it again, or declare it done."""
    half = await read_session(assembly, lambda session: session.store.half_applied())
    if half is None:
        return {"message": "nothing is half applied, so there is nothing to repair"}
    if arguments.rerun:
        await assembly.coordinator().execute(MigrationRequest("repair", half["revision"], repairs=half["revision"]))
        return {"message": f"{half['revision']} may run again: ./migrate.sh {half['direction']}"}
    if half["direction"] == "downgrade" and " " in half["parents"]:
        raise ConfigurationError(
            f"{half['revision']} joins several revisions; name what is left with './migrate.sh stamp'"
        )
    done = half["revision"] if half["direction"] == "upgrade" else half["parents"].split(" ")[0] or "base"
    await assembly.coordinator().execute(MigrationRequest("stamp", done, repairs=half["revision"]))
    return _outcome(assembly)


async def wait(assembly: Assembly, arguments: argparse.Namespace) -> Result:
    """Block until the database is at head; never migrate."""
    await assembly.coordinator(replace(assembly.policy, may_migrate=False)).become_ready()
    return _outcome(assembly)


@_in_each_schema
async def current(assembly: Assembly, arguments: argparse.Namespace) -> Result:
    """Where the database stands."""
    schema = await read_session(assembly, partial(read_schema, assembly))
    return {"revisions": sorted(schema.revisions), "state": schema.state, "message": explain(schema)}


@_in_each_schema
async def check(assembly: Assembly, arguments: argparse.Namespace) -> Result:
    """Exit 0 at head, 3 when not, 7 when ahead, diverged or dirty."""
    schema = await read_session(assembly, partial(read_schema, assembly))
    if schema.state in _UNCLEAR:
        raise SchemaRefused(explain(schema))
    if schema.state is not SchemaState.AT_HEAD:
        raise NotAtHead(f"{explain(schema)}; run './migrate.sh upgrade'")
    return {"state": schema.state, "message": explain(schema)}


@_in_each_schema
async def history(assembly: Assembly, arguments: argparse.Namespace) -> Result:
    """Attempts at revisions, newest first: which, by whom, when, how long, with what outcome."""
    rows = await read_session(assembly, lambda session: session.store.runs(arguments.limit))
    return {"history": [_told(row, assembly.revisions.describe(row["revision"])) for row in rows]}


@_in_each_schema
async def unlock(assembly: Assembly, arguments: argparse.Namespace) -> Result:
    """End the session that holds the lock (break-glass); refuses while it is getting on, unless --force.

    On MySQL, MariaDB and SQLite it ends nobody: it says who holds the lock, and what would free it.
    """
    new_session, history = partial(assembly.session, "reading"), assembly.runner.tables[1]
    ended = await assembly.database.end_holder(new_session, history, force=arguments.force)
    if ended is None:
        return await _nobody(assembly)
    return {"message": f"ended session {ended.pid} of {ended.instance}; what it was doing is rolled back"}


async def doctor(assembly: Assembly, arguments: argparse.Namespace) -> Result:
    """Look at what surrounds the migrations, and say what to change; exit 1 where something must be."""
    findings = await examine(assembly)
    failed = sum(finding.verdict is Verdict.FAIL for finding in findings)
    warned = sum(finding.verdict is Verdict.WARN for finding in findings)
    message = f"{len(findings)} checks, {failed} failed, {warned} with a warning"
    return {"findings": findings, "message": message, "exit_code": 1 if failed else 0}


@_in_each_schema
async def status(assembly: Assembly, arguments: argparse.Namespace) -> Result:
    """Where the database stands, what is pending, who holds the lock, who else is there."""

    async def look(session: OperatorSession) -> Result:
        schema = await read_schema(assembly, session)
        seen = await session.lock_status()
        return {
            "state": schema.state,
            "message": explain(schema),
            "revisions": sorted(schema.revisions),
            "expected_heads": sorted(schema.heads),
            "pending": [assembly.revisions.describe(revision) for revision in schema.pending],
            "lock": {"key": assembly.tracker.status.lock_key, "holder": seen.holder},
            "statement": seen.statement,
            "retry": seen.retry,
            "blocked_by": seen.blocked_by,
            "elected": await _elected(assembly),
            "fleet": seen.fleet,
            "grant": seen.grant,
            "invalid_indexes": await session.store.invalid_indexes(),
        }

    return await read_session(assembly, look)


async def _elected(assembly: Assembly) -> Result | None:
    elected = await leader(assembly)
    return {"leader": elected, "hold": assembly.hold} if elected else None


async def _nobody(assembly: Assembly) -> Result:
    elected = await leader(assembly)
    if elected is None:
        return {"message": "nobody holds the lock, so there is nothing to do"}
    settings = assembly.settings
    by_redis = assembly.choice.strategy is Strategy.REDIS
    seconds = settings.redis_ttl_seconds if by_redis else settings.lease_seconds
    return {
        "message": f"nobody holds the database's lock, but {elected} is elected to take it; if that instance is dead, "
        f"another one is elected within {seconds:g} s, so there is nothing to do"
    }


def _told(row: Mapping[str, Any], description: str) -> Result:
    began, ended = row["started_at"], row["finished_at"]
    seconds = (ended - began).total_seconds() if ended else None
    invalid = json.loads(row.get("invalid_before") or "[]")
    legible = {name: restored(row[name]) for name in ("instance", "error", "note") if row.get(name)}
    return {**row, **legible, "invalid_before": invalid, "seconds": seconds, "description": description}


def _backups(assembly: Assembly, backup: Backup) -> Result:
    return {"backups": backup.made, "dialect": assembly.database.url.dialect, "restores_into": backup.restores_into}


def _outcome(assembly: Assembly) -> Result:
    status = assembly.tracker.status
    run = status.last_run
    invalid = [invalid_index_advice(status.invalid_indexes)] if status.invalid_indexes else []
    applied = [assembly.revisions.describe(revision) for revision in run.applied] if run else []
    return {
        "state": status.schema.state,
        "revisions": sorted(status.schema.revisions),
        "steps": applied,
        "message": "; ".join([explain(status.schema), *invalid]),
    }
