"""For how long a run has lasted and is blocked, and when it gives up. Not imported by a start at head."""

from __future__ import annotations

from .status import SETTLED, Status


def duration(seconds: float) -> str:
    """Return a duration for people: "3.2 s", "45 s", "12 min" or "2.5 h"."""
    if seconds < 120:
        return f"{max(seconds, 0):.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def run_seconds(status: Status, now: float) -> float | None:
    """Return the duration so far, or in all, of the run that the instance makes or watches; None without one."""
    started, run = status.progress.started_at, status.last_run
    if started is None:
        return None
    over = status.phase in SETTLED
    ended = run.finished_at if run and run.finished_at else status.since if over else now
    return max(0.0, ended - started)


def gives_up(status: Status, now: float) -> str:
    """Return when the current wait or run ends: "gives up in 22 min (MIGRATION_RUN_SECONDS)"; "" without a limit."""
    limit = status.limit
    return "" if limit is None else f"gives up in {duration(limit.at - now)} ({limit.setting})"


def countdown(status: Status, now: float) -> str:
    """Return `gives_up`, and before it for how long other sessions have blocked the current revision."""
    blocked = status.blocked_since if status.lock_status.blocked_by else None
    since = "" if blocked is None else f"blocked for {duration(now - blocked)}"
    return ", ".join(filter(None, (since, gives_up(status, now))))
