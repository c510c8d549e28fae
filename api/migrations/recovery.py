"""A held instance: after a failed start it looks at the database, and becomes ready when the schema is at head.

It never migrates again by itself. Another instance, `upgrade` or `repair` brings the schema to head.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from .assembly import Assembly
from .core.clock import jittered
from .core.status import LockStatus, Phase, Tracker
from .errors import COMMAND, ConfigurationError, DatabaseUnreachable, MigrationError
from .execution.hooks import Function
from .settings import MigrationSettings, Strategy

log = logging.getLogger(__name__)

LOOK_EVERY_SECONDS = 5.0
"""Plus or minus half, so that a fleet that failed together does not look together."""
_READ = ("schema", "scopes", "lock_status", "reachable", "read_at", "last_success", "last_failure", "recent")
"""What a look finds; the rest of the status is that of the failed start."""


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
    except ConfigurationError:
        return False
    tracker.note(held=True)
    message = "Held after the failure: ready as soon as '%s upgrade' or another instance has brought the schema to head"
    log.info(message, COMMAND, extra={"event": "held"})
    while not await _look(assembly, tracker):
        await asyncio.sleep(jittered(LOOK_EVERY_SECONDS))
        if not assembly.inspected:
            with suppress(ConfigurationError):
                assembly = await _inspected(assembly)
    return True


async def _inspected(assembly: Assembly) -> Assembly:
    # once, because it executes env.py
    with suppress(DatabaseUnreachable):
        return await assembly.inspect()
    return assembly


async def _look(assembly: Assembly, tracker: Tracker) -> bool:
    """Read each schema once, and the lock holder if one is not at head; return whether the tracker is `ready`."""
    seen = Tracker()
    seen.status = assembly.tracker.status
    policy = replace(assembly.policy, may_migrate=False, wait_seconds=0.0)
    try:
        await replace(assembly, tracker=seen).coordinator(policy, role="reading").become_ready()
    except DatabaseUnreachable:
        tracker.note(reachable=False, lock_status=LockStatus())
        return False
    except MigrationError:
        # the lock status, too, was read by the start that has just ended
        lock_status = seen.status.at_failure or LockStatus()
        tracker.note(**_read(seen) | {"lock_status": lock_status})
        return False
    failed_seconds = time.time() - tracker.status.since
    tracker.move(Phase.READY, message=seen.status.message, **_read(seen))
    log.info("Recovered %.0f s after the failure", failed_seconds, extra={"event": "recovered"})
    return True


def _read(seen: Tracker) -> dict[str, object]:
    return {name: getattr(seen.status, name) for name in _READ}
