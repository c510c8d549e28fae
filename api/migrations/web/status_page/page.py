"""The status page for browsers at `/health/migrations`: `page.html.mako` is the document, this module its values.

The page has no script and loads nothing: it must work from a phone, through a tunnel, while everything else answers
503. It shows the same frozen status as the JSON, so a request for it does not query the database.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from hashlib import sha256
from pathlib import Path

from mako.template import Template

from ...core.advice import advise
from ...core.countdown import countdown, duration
from ...core.retried import retries_together
from ...core.schema import Recorded, SchemaState, invalid_index_advice
from ...core.status import Phase, Status
from ...text.printable import printable

SHOWN = 12
"""A list shows so many revisions and counts the others."""
ATTEMPTS = 6
"""The history shows so many rows."""
SUMMARY = 160
"""The header shows so many characters of a message."""
_HEADLINES = {
    Phase.VERIFYING: "Verifying the schema",
    Phase.OFF: "Ready, the schema is not checked",
    Phase.DRAINING: "Stopping, not ready any more",
}
_SOURCE = Path(__file__).with_name("page.html.mako").read_text(encoding="utf-8")
_STYLE = _SOURCE.partition("<style>")[2].partition("</style>")[0].encode()
HEADERS = {
    "Content-Security-Policy": (
        f"default-src 'none'; style-src 'sha256-{b64encode(sha256(_STYLE).digest()).decode()}'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def render(status: Status, now: float) -> str:
    """The document; `now` is in epoch seconds, and ages are relative to it."""
    facts = {"status": status, "schema": status.schema, "lock": status.lock_status, "now": now, "shown": SHOWN}
    views = {"tone": _tone(status), "headline": _headline(status), "summary": _summary(status)}
    helpers = {"clock": _clock, "duration": _duration, "joined": _joined, "names": _names, "split": _split_pending}
    facts |= {"failed": status.phase is Phase.FAILED, "fleet": _fleet(status, now)}
    texts = {"countdown": countdown(status, now), "recent": _retries_as_one(status.recent)[:ATTEMPTS], "times": _times}
    advice = {"advice": advise(status, now), "index_advice": invalid_index_advice}
    return str(_template().render(**facts, **views, **helpers, **texts, **advice))


@cache
def _template() -> Template:
    filters = {"imports": [f"from {__name__} import visible"], "default_filters": ["visible", "h"]}
    return Template(_SOURCE, **filters, strict_undefined=True)  # noqa: S702 - the default filters escape


def visible(value: object) -> str:
    """The value as text, with its control characters as escape sequences; the filter `h` then escapes it as HTML."""
    return printable(str(value), keep="\n\t")


def _tone(status: Status) -> str:
    warning = status.lock_status.blocked_by or status.invalid_indexes or status.reachable is False
    if status.phase is Phase.FAILED or (not status.ready and _needs_repair(status)):
        return "bad"
    if warning or status.phase is Phase.OFF or (status.ready and status.schema.state is SchemaState.AHEAD):
        return "warn"
    return "ok" if status.ready else "busy"


def _headline(status: Status) -> str:
    if status.phase is Phase.FAILED:
        return f"Failed at {_clock(status.since)}, not ready"
    if status.phase in {Phase.WAITING, Phase.MIGRATING} and status.lock_status.blocked_by:
        return "Blocked, pausing before a retry" if status.lock_status.retry else "The migration is blocked"
    if status.reachable is False and not status.ready:
        return "The database is unreachable"
    if status.phase is Phase.WAITING and _needs_repair(status):
        return "A revision is half applied"
    if status.phase is Phase.CHECKING:
        return "Reading the database" if status.reachable else "Connecting to the database"
    if status.phase is Phase.WAITING and (holder := status.lock_status.holder):
        return f"Waiting while {holder.instance} migrates"
    if status.phase is Phase.READY and status.schema.state is SchemaState.AHEAD:
        return "Ready, on a newer schema"
    return _HEADLINES.get(status.phase, status.phase.capitalize())


def _needs_repair(status: Status) -> bool:
    # while a session holds the lock, the revision may still run
    return status.schema.state is SchemaState.DIRTY and status.lock_status.holder is None


def _summary(status: Status) -> str:
    """What is wrong, or what happens, in so few words that the advice below stays on a phone's first screen."""
    if status.phase in {Phase.WAITING, Phase.MIGRATING} and (blockers := status.lock_status.blocked_by):
        more = f"; and {len(blockers) - 1} more" if len(blockers) > 1 else ""
        return f"{blockers[0]}{more}"
    if status.phase is not Phase.FAILED and _needs_repair(status):
        return "; ".join(
            f"revision {half.revision} committed a part of its work and did not finish"
            f"{f' (last statement: {half.statement})' if half.statement else ''}"
            for half in status.schema.half_applied
        )
    text = status.message or (str(status.lock_status) if status.lock_status.holder else "")
    # the advice follows
    text = text.partition(". To fix:")[0]
    return text if len(text) <= SUMMARY else f"{text[:SUMMARY].rpartition(' ')[0] or text[:SUMMARY]} …"


def _fleet(status: Status, now: float) -> Iterator[tuple[str, bool, str, str, str]]:
    """For each instance its name, whether it is this one, its role with a CSS class, and its session."""
    members, ready = status.lock_status.fleet, "ready" if status.ready else "not ready"
    # the server keeps only the beginning of a long name
    cut = [m for m in members if len(m.instance.encode()) > 30 and status.instance.startswith(m.instance)]
    here = cut or [m for m in members if m.instance == status.instance]
    if not here:
        yield status.instance, True, ready, "ok" if status.ready else "", ""
    for member in members:
        role = f"{member.role}, {ready}" if member in here else member.role
        age = "" if member.since is None else f"pid {member.pid}, connected for {_duration(now - member.since)}"
        yield member.instance, member in here, role, "busy" if member.role == "migrating" else "", age


def _split_pending(status: Status) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The pending revisions that the run has applied, and those that it has not."""
    pending, progress = status.schema.pending, status.progress
    # the instance may have read the list before the run or during it; either way the tail is not applied
    split = max(0, len(pending) - progress.total + progress.applied) if progress.total else 0
    return pending[:split], pending[split:]


def _joined(separator: str, *parts: str | None) -> str:
    return separator.join(filter(None, parts))


def _names(revisions: Iterable[str]) -> str:
    return ", ".join(sorted(revisions)) or "base"


def _clock(epoch_seconds: float | None, pattern: str = "%H:%M:%S") -> str:
    return "" if epoch_seconds is None else f"{datetime.fromtimestamp(epoch_seconds, UTC):{pattern}} UTC"


def _duration(seconds: float | None) -> str:
    return "" if seconds is None else duration(seconds)


def _retries_as_one(rows: Sequence[Recorded]) -> list[Recorded]:
    """The rows, newest first; consecutive retries of a revision are one row from the first to the last of them."""
    groups = retries_together(rows, lambda row: (row.revision, row.direction, row.outcome))
    return [group[0] if len(group) == 1 else _one_of(group) for group in groups]


def _one_of(group: Sequence[Recorded]) -> Recorded:
    newest, oldest = group[0], group[-1]
    ended = newest.started_at + (newest.seconds or 0.0)
    return replace(newest, started_at=oldest.started_at, seconds=ended - oldest.started_at, attempts=len(group))


def _times(row: Recorded) -> str:
    return row.outcome if row.attempts == 1 else f"{row.outcome} {row.attempts} times"
