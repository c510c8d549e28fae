"""The start of an instance, in the migration thread: migrate to head, or wait until another instance has."""

from __future__ import annotations

import logging
from dataclasses import astuple

from .assembly import Assembly
from .core.status import Phase, Tracker
from .errors import ConfigurationError
from .execution.hooks import Function, Hooks
from .logs import bind_log_context
from .settings import MigrationSettings, Strategy

log = logging.getLogger(__name__)


async def migrate_at_startup(
    settings: MigrationSettings,
    tracker: Tracker,
    problem: ConfigurationError | None = None,
    before: Function | None = None,
    after: Function | None = None,
) -> None:
    """Return once the schema is verified and the tracker says `ready` or `off`.

    Args:
        settings: the instance's settings.
        tracker: receives progress and result.
        problem: why the settings could not be read; then it is raised, and the database is not contacted.
        before: called before the first revision; default: that of the settings.
        after: called after the last revision; default: that of the settings.

    Raises:
        MigrationError: the schema could not be verified; the tracker says `failed` and why.
    """
    bind_log_context(tracker)
    if settings.strategy is Strategy.OFF and problem is None:
        tracker.move(Phase.OFF, message="MIGRATION_STRATEGY=off: nothing is checked")
        return
    try:
        if problem is not None:
            raise problem
        hooks = Hooks.of(before or settings.before, after or settings.after)
        assembly = Assembly.build(settings, tracker, hooks=hooks)
    except ConfigurationError as error:
        tracker.move(Phase.FAILED, message=str(error))
        raise
    log.info("Strategy %s: %s", *astuple(assembly.choice), extra={"event": "strategy"})
    await assembly.coordinator().become_ready()
