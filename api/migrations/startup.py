"""The start of an instance, in the migration thread: migrate to head, or wait until another instance has.

A held instance looks at the database after its failed start, and becomes ready when the schema is at head. It never
migrates again by itself: another instance, `upgrade` or `repair` brings the schema to head.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import astuple, replace

from .assembly import Assembly
from .core.clock import jittered
from .core.status import LockStatus, Phase, Tracker
from .errors import COMMAND, ConfigurationError, DatabaseUnreachable, ForeignConnection, MigrationError
from .execution.hooks import Function
from .logs import bind_log_context
from .settings import MigrationSettings, Strategy

log = logging.getLogger(__name__)

LOOK_EVERY_SECONDS = 5.0
"""Plus or minus half, so that a fleet that failed together does not look together."""
_INVALID_BUILD = (ConfigurationError, ForeignConnection)
_READ = (
    *("schema", "scopes", "lock_status", "reachable", "read_at", "last_success", "last_failure", "recent"),
    "invalid_indexes",
)
"""What a look finds; the rest of the status is that of the failed start."""


async def migrate_at_startup(
    databases: Sequence[MigrationSettings],
    tracker: Tracker,
    problem: ConfigurationError | None = None,
    before: Function | None = None,
    after: Function | None = None,
) -> None:
    """Return once the schema of each database is verified and the tracker says `ready` or `off`.

    Args:
        databases: the instance's settings for each database.
        tracker: receives progress and result.
        problem: why the settings could not be read; then it is raised, and no database is contacted.
        before: called before the first revision; default: that of the settings.
        after: called after the last revision; default: that of the settings.

    Raises:
        MigrationError: a schema could not be verified; the tracker says `failed` and why.
    """
    bind_log_context(tracker)
    checked = [settings for settings in databases if settings.strategy is not Strategy.OFF]
    if not checked and problem is None:
        tracker.move(Phase.OFF, message="MIGRATION_STRATEGY=off: nothing is checked")
        return
    try:
        if problem is not None:
            raise problem
        assembly = Assembly.of_databases(checked, tracker, before, after)
    except ConfigurationError as error:
        tracker.move(Phase.FAILED, message=error.message, error_class=type(error))
        raise
    for one in assembly.each.values():
        name = f"{one.name}: " if one.name else ""
        log.info("%sStrategy %s: %s", name, *astuple(one.choice), extra={"event": "strategy"})
    await assembly.coordinator().become_ready()


async def migrate_or_hold(
    databases: Sequence[MigrationSettings],
    tracker: Tracker,
    problem: ConfigurationError | None,
    before: Function | None,
    after: Function | None,
    failed: Callable[[], None] | None,
) -> None:
    """Call `migrate_at_startup`; after its failure call `failed`, and return once the schema is at head.

    Without `failed` the instance is not held.

    Raises:
        MigrationError: the start failed, and the instance is not held or its build is invalid; the error is logged.
    """
    try:
        await migrate_at_startup(databases, tracker, problem, before, after)
    except MigrationError as error:
        log.error("Not ready: %s", error, extra={"event": "failed"})
        if failed is None or problem is not None:
            raise
        failed()
        if not await recover(databases, tracker, before, after):
            raise


async def recover(
    databases: Sequence[MigrationSettings], tracker: Tracker, before: Function | None, after: Function | None
) -> bool:
    """Look at the databases until each is at head; return True when the tracker is `ready`.

    Returns False at once if the revisions or env.py of this build are invalid: only a new build can help.
    """
    checked = [settings for settings in databases if settings.strategy is not Strategy.OFF]
    try:
        # with a tracker of its own, because what the failed start found stays visible
        assembly = Assembly.of_databases(checked, Tracker(), before, after)
        assembly = await _inspected(assembly)
    except _INVALID_BUILD:
        return False
    tracker.note(held=True)
    message = "Held after the failure: ready as soon as '%s upgrade' or another instance has brought the schema to head"
    log.info(message, COMMAND, extra={"event": "held"})
    while not await _look(assembly, tracker):
        await asyncio.sleep(jittered(LOOK_EVERY_SECONDS))
        if not assembly.inspected:
            with suppress(*_INVALID_BUILD):
                assembly = await _inspected(assembly)
    return True


async def _inspected(assembly: Assembly) -> Assembly:
    # once, because it executes env.py; it may read from the database, which may refuse that for now
    try:
        return await assembly.inspect()
    except _INVALID_BUILD:
        raise
    except MigrationError:
        return assembly


async def _look(assembly: Assembly, tracker: Tracker) -> bool:
    """Read each schema once, and the lock holder if one is not at head; return whether the tracker is `ready`."""
    seen = Tracker()
    try:
        invalid = await _invalid_indexes(assembly) if tracker.status.invalid_indexes else ()
        seen.status = replace(assembly.tracker.status, invalid_indexes=invalid)
        await replace(assembly, tracker=seen).coordinator(looks=True).become_ready()
    except DatabaseUnreachable:
        tracker.note(reachable=False, lock_status=LockStatus())
        return False
    except MigrationError:
        # the lock status, too, was read by the start that has just ended
        lock_status = seen.status.at_failure or LockStatus()
        tracker.note(**_read(seen, tracker) | {"lock_status": lock_status})
        return False
    failed_seconds = time.time() - tracker.status.since
    tracker.move(Phase.READY, message=seen.status.message, **_read(seen, tracker))
    log.info("Recovered %.0f s after the failure", failed_seconds, extra={"event": "recovered"})
    return True


async def _invalid_indexes(assembly: Assembly) -> tuple[str, ...]:
    found: set[str] = set()
    for one in assembly.each.values():
        session = one.session("reading")
        try:
            await session.open()
            found.update(await session.store.invalid_indexes())
        finally:
            await session.close()
    return tuple(sorted(found))


def _read(seen: Tracker, tracker: Tracker) -> dict[str, object]:
    if seen.status.read_at is None:
        return {}
    facts = {name: getattr(seen.status, name) for name in _READ}
    # a look ends at the first schema that is not at head
    return facts | {"scopes": {**tracker.status.scopes, **seen.status.scopes}}
