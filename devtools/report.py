"""Reads the answers of an instance and words them for the screen; pure functions."""

import signal
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from textwrap import shorten
from typing import Any

WORDS = {"verifying": "verifying the schema", "checking": "reading the schema", "off": "migrations are off"}
LONGEST_WORDS = 80
"""Longer words are cut, because an instance has one line; the full error follows below."""


@dataclass(frozen=True)
class Report:
    """One instance at one moment.

    Attributes:
        phase: the instance's own phase, or `starting` before it answers and `exited` after its process has ended.
        words: what to show for it.
        ready: whether it serves requests.
        over: whether its state is final.
        error: why it failed, in full.
    """

    phase: str = "starting"
    words: str = "starting"
    ready: bool = False
    over: bool = False
    error: str | None = None


@dataclass(frozen=True)
class Run:
    """The last migration that an instance reports: how many revisions in how many seconds, and whether to their end."""

    revisions: int
    seconds: float
    succeeded: bool = True

    def __str__(self) -> str:
        return f"{self.revisions} revision{'' if self.revisions == 1 else 's'} in {self.seconds:.1f} s"


def exited(code: int) -> Report:
    """Return the report of a process that exited with `code`; a negative code is the number of the signal."""
    cause = f"ended by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"
    return Report("exited", cause, over=True)


def read(status_code: int, body: Mapping[str, Any]) -> Report:
    """Read the answer of /health/migrations."""
    phase = str(body.get("phase", "starting"))
    if phase == "failed":
        # of an instance that only waited, the message says what failed on the other one
        error = _mapping(body, "last_run").get("error") or body.get("message") or "see its log"
        return Report(phase, shorten(f"failed: {error}", LONGEST_WORDS, placeholder=" …"), over=True, error=error)
    if status_code == 200:
        warning = f" ({body.get('state')})" if body.get("status") == "warn" else ""
        return Report(phase, "ready" + warning, ready=True, over=True)
    return Report(phase, _words(phase, body))


def last_run(body: Mapping[str, Any]) -> Run | None:
    """Return the last migration in the answer of /health/migrations, if that has its start and end."""
    run = _mapping(body, "last_run")
    started, finished = run.get("started_at"), run.get("finished_at")
    if not started or not finished:
        return None
    seconds = _moment(finished) - _moment(started)
    return Run(len(run.get("applied") or ()), seconds, succeeded=run.get("result") == "applied")


def _moment(value: float | str) -> float:
    """Seconds of the clock, out of an ISO 8601 time or a number."""
    return datetime.fromisoformat(value).timestamp() if isinstance(value, str) else value


def _words(phase: str, body: Mapping[str, Any]) -> str:
    if phase == "migrating":
        return _progress(_mapping(body, "progress"))
    if phase == "waiting":
        holder = _mapping(_mapping(body, "lock"), "holder").get("instance")
        if holder:
            return f"waiting for {holder}"
        return shorten(f"waiting: {body.get('message') or 'for the database'}", LONGEST_WORDS, placeholder=" …")
    return WORDS.get(phase, phase)


def _progress(progress: Mapping[str, Any]) -> str:
    applied, total = progress.get("applied") or 0, progress.get("total") or 0
    current = progress.get("current")
    # `applied` counts what is done; people count the one that runs
    number = min(applied + 1, total) if current else applied
    return f"migrating {number} of {total}" + (f": {current}" if current else "")


def _mapping(body: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """A part of the body, empty when there is none."""
    part = body.get(key)
    return part if isinstance(part, Mapping) else {}
