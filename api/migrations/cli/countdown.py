"""When the lock holder's run gives up, as a command can tell: from the history and its own MIGRATION_RUN_SECONDS."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any

from ..core.countdown import countdown
from ..core.status import Limit, LockStatus, Status
from ..lock_manager import may_be

SETTING = "MIGRATION_RUN_SECONDS={:g}, if the lock holder has the same"


def countdown_of(seen: LockStatus, rows: Sequence[Mapping[str, Any]], run_seconds: float) -> str | None:
    """Return since when the lock holder is blocked and when it gives up; None without a run in progress.

    Args:
        seen: the lock holder and its statement.
        rows: the newest rows of the history, newest first. Those of the holder's session are its run.
        run_seconds: the limit of a run.
    """
    holder = seen.holder
    if holder is None or holder.since is None:
        return None
    since = holder.since
    run = list(takewhile(lambda row: _began(row) >= since and may_be(holder.instance, row["instance"]), rows))
    steps = [row for row in run if row["direction"] != "backup"]
    if not steps:
        return None
    limit = Limit(_began(steps[-1]) + run_seconds, SETTING.format(run_seconds))
    blocked = _blocked_since(seen, steps) if seen.blocked_by else None
    return countdown(Status(lock_status=seen, blocked_since=blocked, limit=limit), time.time())


def _blocked_since(seen: LockStatus, steps: Sequence[Mapping[str, Any]]) -> float:
    # before the attempt that waits now, each attempt at the same revision was retried because it was blocked
    current = steps[0]["revision"]
    attempts = list(takewhile(lambda row: row["revision"] == current, steps))
    retried = [row for row in attempts if row["outcome"] == "retried"]
    statement = time.time() - ((seen.statement and seen.statement.seconds) or 0.0)
    return min([statement, *map(_began, retried)])


def _began(row: Mapping[str, Any]) -> float:
    began: float = row["started_at"].timestamp()
    return began
