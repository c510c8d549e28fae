"""The start of an instance, in the migration thread: migrate to head, or wait until another instance has."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import astuple

from .assembly import Assembly
from .core.status import Phase, Tracker
from .errors import ConfigurationError, MigrationError
from .execution.hooks import Function
from .logs import bind_log_context
from .settings import MigrationSettings, Strategy

log = logging.getLogger(__name__)


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
        tracker.move(Phase.FAILED, message=str(error))
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
    failed: Callable[[], None],
) -> None:
    """Call `migrate_at_startup`; with MIGRATION_ON_FAILURE=hold, after its failure return once the schema is at head.

    `failed` is called after the failure, before the wait.

    Raises:
        MigrationError: the start failed, and the instance is not held or its build is invalid; the error is logged.
    """
    try:
        await migrate_at_startup(databases, tracker, problem, before, after)
    except MigrationError as error:
        log.error("Not ready: %s", error, extra={"event": "failed"})
        if databases[0].on_failure == "exit" or problem is not None:
            raise
        from .recovery import recover  # a start at head does not need it

        failed()
        if not await recover(databases, tracker, before, after):
            raise
