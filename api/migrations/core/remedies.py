"""The remedies that do not depend on a moment: for a schema on which nothing runs, and for each class of error."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ..errors import (
    COMMAND,
    DatabaseUnreachable,
    ElectorUnreachable,
    HoldLost,
    MigrationError,
    NoConnectionLeft,
    OldInstances,
    RevisionFailed,
    RunTimeout,
    TableLockTimeout,
    WaitTimeout,
)
from .schema import Schema, SchemaState
from .termination import psql

RUNBOOK = "docs/operations.md"
CHECK, DOCTOR, HISTORY = f"{COMMAND} check", f"{COMMAND} doctor", f"{COMMAND} history --limit 10"
STATUS, UPGRADE = f"{COMMAND} status", f"{COMMAND} upgrade"

_URLS = {
    "$OWNER_URL": "OWNER_URL: MIGRATION_DATABASE_URL or DATABASE_URL, without a driver",
    "$SUPERUSER_URL": "SUPERUSER_URL: the same for a superuser",
}
_BUILDS = (
    "SELECT application_name, usename, client_addr, count(*) FROM pg_stat_activity "
    "WHERE position('@' IN application_name) > 1 GROUP BY 1, 2, 3"
)
_COUNT = "SELECT application_name, state, count(*) FROM pg_stat_activity GROUP BY 1, 2 ORDER BY 3 DESC"
_FREE = (
    "SELECT pg_terminate_backend(pid) FROM (SELECT pid FROM pg_stat_activity WHERE state = 'idle' AND "
    "application_name NOT LIKE 'migrations:%' ORDER BY state_change LIMIT 5) idle_for_longest"
)


@dataclass(frozen=True)
class Advice:
    """What to do: a text, the title of the runbook's section, and commands to be typed one after another."""

    text: str
    section: str
    commands: tuple[str, ...] = ()

    @property
    def runbook(self) -> str:
        """The runbook's file, with the anchor of the section."""
        return f"{RUNBOOK}#{self.section.lower().replace(' ', '-')}"

    @property
    def urls(self) -> str | None:
        """Which URLs the commands with `psql` need; None without such a command."""
        needed = (about for name, about in _URLS.items() if name in " ".join(self.commands))
        return "; ".join(needed) or None

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object of `/health/migrations` and `status`."""
        return {"text": self.text, "commands": list(self.commands), "runbook": self.runbook}


def refused(schema: Schema) -> Advice | None:
    """Return what to do about a schema on which this build runs nothing; None for any other."""
    match schema.state:
        case SchemaState.DIRTY:
            text = (
                "Correct by hand what the half-applied revision left behind, so that it can run again. If you do the "
                f"rest of its work by hand instead, declare it done with '{COMMAND} repair --stamp'."
            )
            invalid = [index for half in schema.half_applied for index in half.invalid_indexes]
            return Advice(text, "Dirty schema", (*_drops(invalid), f"{COMMAND} repair --rerun", UPGRADE))
        case SchemaState.AHEAD | SchemaState.DIVERGED:
            contained = sorted(set(schema.contracted.values()) or schema.unknown)
            release = f"Deploy {'a' if schema.contracted else 'the'} release that contains {', '.join(contained)}"
            url = ", or correct DATABASE_URL" if schema.state is SchemaState.DIVERGED else ""
            return Advice(f"{release}{url}. Do not stamp.", "Database ahead", (CHECK,))
        case SchemaState.UNVERSIONED:
            text = (
                "If the database is the right one, declare the revision REV that matches its tables, and migrate from "
                "there. Otherwise correct DATABASE_URL, and restart the instances."
            )
            return Advice(text, "Tables without a revision", (f"{COMMAND} stamp REV", UPGRADE))
    return None


def drop_invalid(indexes: Iterable[str]) -> Advice:
    """Return what to do about INVALID indexes, whose quoted names are given."""
    text = "Drop each INVALID index, which serves no query and slows down writes; build it again in a revision."
    return Advice(text, "INVALID indexes", _drops(indexes))


def remedy_for(error: type[MigrationError]) -> Advice:
    """Return what to do about an error of this class."""
    return next(advice for known, advice in _REMEDIES.items() if issubclass(error, known))


def _drops(indexes: Iterable[str]) -> tuple[str, ...]:
    return tuple(psql(f"DROP INDEX CONCURRENTLY {index}") for index in indexes)


BLOCKED = Advice(
    "Another session blocked the migration until the time was up; more time would not have helped. See whether one "
    "blocks it now, and terminate that; then migrate.",
    "Stuck migration",
    (STATUS, UPGRADE),
)
OLD_INSTANCES = Advice(
    "Finish the deploy of a release that contains the named revision, or stop the instances of the older builds; then "
    "migrate. This shows where their sessions come from:",
    "Old instances",
    (psql(_BUILDS), UPGRADE),
)
_CORRECT = Advice(
    "Correct the data as the error says, then migrate; or deploy a build with a corrected revision.",
    "Failed migration",
    (HISTORY, UPGRADE),
)
# the first class that fits
_REMEDIES: dict[type[MigrationError], Advice] = {
    NoConnectionLeft: Advice(
        "The server has no free connection. It reserves some for superusers: see which applications "
        "have the others, and terminate the five sessions that have been idle for longest; or stop instances.",
        "No connection left",
        (psql(_COUNT, superuser=True), psql(_FREE, superuser=True)),
    ),
    ElectorUnreachable: Advice(
        "Check that Redis or the Kubernetes API runs and can be reached.",
        "Redis or Kubernetes decides which instance tries",
        (DOCTOR,),
    ),
    DatabaseUnreachable: Advice(
        "Check that the database runs, that the URL names it, and that it can be reached from here.",
        "Database unreachable",
        (STATUS,),
    ),
    TableLockTimeout: BLOCKED,
    OldInstances: OLD_INSTANCES,
    WaitTimeout: Advice(
        "If the migration needs longer, raise MIGRATION_WAIT_SECONDS (and MIGRATION_RUN_SECONDS). See whether it still "
        "runs; 'upgrade' waits for it, and migrates what is left.",
        "Waiting too long",
        (STATUS, UPGRADE),
    ),
    RunTimeout: Advice(
        "The revisions need longer than MIGRATION_RUN_SECONDS. Raise it and MIGRATION_WAIT_SECONDS, or migrate once "
        "with more time.",
        "Failed migration",
        (f"MIGRATION_RUN_SECONDS=3600 MIGRATION_WAIT_SECONDS=3600 {UPGRADE}",),
    ),
    RevisionFailed: _CORRECT,
    HoldLost: _CORRECT,
    MigrationError: Advice(
        "Correct what the message names, and check it. An instance reads its settings and its build at its start: "
        "restart it after you changed one.",
        "Failed migration",
        (DOCTOR,),
    ),
}
