"""What an instance does at start, in the migration thread: bring the schema to head, or see that it is there."""

from __future__ import annotations

import logging
from dataclasses import astuple

from .assembly import Assembly
from .core.status import Phase, Tracker
from .errors import ConfigurationError
from .logs import bind_log_context
from .settings import MigrationSettings, Strategy

log = logging.getLogger(__name__)


async def migrate_at_startup(
    settings: MigrationSettings, tracker: Tracker, problem: ConfigurationError | None = None
) -> None:
    """What an instance does at start: return once the schema is verified, and the tracker says `ready` or `off`.

    Args:
        settings: whose database and policy.
        tracker: where progress and outcome are shown.
        problem: why the settings could not be read, in which case nothing else is tried.

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
        assembly = Assembly.build(settings, tracker)
    except ConfigurationError as error:
        tracker.move(Phase.FAILED, message=str(error))
        raise
    log.info("Strategy %s: %s", *astuple(assembly.choice), extra={"event": "strategy"})
    await assembly.coordinator().become_ready()
