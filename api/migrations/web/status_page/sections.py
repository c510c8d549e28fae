"""The sections of the page for people: who is in the way, what is pending, who is there, and what has been done."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from ...core.schema import Recorded, invalid_index_advice
from ...core.status import Blocker, LastRun, Member, Phase, Status
from .markup import Html, element, joined

SHOWN = 12
"""Revisions that a list shows before it only counts the others."""
GOOD = frozenset({"applied", "stamped", "backed_up"})
BAD = frozenset({"failed", "half_applied", "interrupted"})


def sections(status: Status, now: float) -> Iterator[Html]:
    """Those that have something to show; `now` in epoch seconds, for what is told as an age."""
    # what a person may have to act on first
    yield from _in_the_way(status)
    yield from _invalid(status)
    yield from _schemas(status)
    yield from _pending(status, now)
    yield from _lock(status, now)
    yield _fleet(status, now)
    yield from _last_run(status.last_run)
    yield from _recent(status.recent)


def _section(title: str, *children: object, tone: str | None = None) -> Html:
    name = title.split(" ")[0].lower()
    heading = element("h2", title, id=name)
    return element("section", heading, *children, class_=tone and f"alert {tone}", aria_labelledby=name)


def _in_the_way(status: Status) -> Iterator[Html]:
    if blockers := status.lock_status.blocked_by:
        yield _section("In the way", element("ul", *map(_blocker, blockers)), tone="warn")


def _blocker(blocker: Blocker) -> Html:
    age = "" if blocker.seconds is None else f" for {_duration(blocker.seconds)}"
    waits = f"{blocker.mode} on {blocker.relation}" if blocker.relation else "the end of its transaction"
    name = element("span", blocker.application or "unnamed session", class_="big")
    told = facts(
        ("state", f"{blocker.state or 'hidden from this role'}{age}"),
        ("user", blocker.user or "hidden from this role"),
        ("blocks", waits),
    )
    return element("li", element("div", name, element("code", f"pid {blocker.pid}"), class_="row"), told)


def _invalid(status: Status) -> Iterator[Html]:
    if names := status.invalid_indexes:
        yield _section("INVALID indexes", element("pre", invalid_index_advice(names)), tone="warn")


def _schemas(status: Status) -> Iterator[Html]:
    if status.schemas:
        told = [(name, f"{names(one.revisions)}, {len(one.pending)} pending") for name, one in status.schemas.items()]
        yield _section("Schemas", facts(*told))


def _pending(status: Status, now: float) -> Iterator[Html]:
    pending, progress = status.schema.pending, status.progress
    if not pending or status.ready:
        return
    total = progress.total or len(pending)
    # the tail is what is left, whether the list was read before the run or in the middle of somebody's
    left = pending[len(pending) - (total - progress.applied) :] if progress.total else pending
    done = pending[: len(pending) - len(left)]
    label = f"{progress.applied} of {total} applied"
    bar = element("progress", max=total, value=progress.applied, aria_label=label)
    rows = [element("li", element("code", name, class_="past"), " applied", class_="past") for name in done[-3:]]
    rows += [_revision(status, name, now) for name in left[:SHOWN]]
    more = element("p", f"and {len(left) - SHOWN} more", class_="soft") if len(left) > SHOWN else None
    yield _section("Pending revisions", label, bar, element("ol", *rows), more)


def _revision(status: Status, name: str, now: float) -> Html:
    progress, statement = status.progress, status.lock_status.statement
    if name != progress.current or status.phase is Phase.FAILED:
        return element("li", element("code", name))
    at_it = status.phase is Phase.MIGRATING or status.lock_status.holder is not None
    parts: list[object] = [element("code", name), " ", element("span", "now" if at_it else "next", class_="role busy")]
    if statement is not None:
        parts.append(element("p", str(statement)))
        if statement.percent is not None:
            label = f"{statement.phase or statement.kind}: {statement.percent:.0f} %"
            parts.append(element("progress", max=100, value=f"{statement.percent:.1f}", aria_label=label))
    if progress.attempt is not None:
        parts.append(element("p", f"attempt {progress.attempt} did not get its lock; {_next(status, now)}"))
    return element("li", *parts, aria_current="step")


def _next(status: Status, now: float) -> str:
    seconds = (status.progress.next_try_at or 0) - now
    return f"the next one is in {_duration(seconds)}" if seconds > 0 else "the next one is under way"


def _lock(status: Status, now: float) -> Iterator[Html]:
    holder, lock_status = status.lock_status.holder, status.lock_status
    if holder is None:
        return
    told: list[tuple[str, object]] = [
        ("held by", element("span", holder.instance, class_="big")),
    ]
    # only PostgreSQL has states, and keeps them from some roles; a file's lock is a process's, and no session's
    state = "state hidden" if lock_status.grant else holder.state
    if holder.pid:
        session = status.holder_kind == "session"
        pid = element("code", f"pid {holder.pid}")
        told.append(("session" if session else "process", joined(pid, f", {state}" if state else "")))
        if holder.since is not None:
            since = f"{clock(holder.since)}, {_duration(now - holder.since)} ago"
            told.append(("connected" if session else "locked", since))
    if lock_status.statement is not None:
        told.append(("executes", lock_status.statement))
    elif lock_status.retry is not None:
        told.append(("pauses", lock_status.retry))
    hidden = "What it is doing is hidden from this role; a superuser may:"
    grant = (element("p", hidden), element("pre", lock_status.grant)) if lock_status.grant else ()
    yield _section("Lock", facts(*told), *grant)


def _fleet(status: Status, now: float) -> Html:
    members = status.lock_status.fleet
    rows = [_member(member, status, now) for member in members]
    if not any(_same(member.instance, status.instance) for member in members):
        rows.insert(0, _row(status.instance, _readiness(status), "ok" if status.ready else None, True, None))
    note = element("p", "Instances that are ready keep no session: of those only this one is known.", class_="soft")
    return _section("Fleet", element("ul", *rows), note)


def _member(member: Member, status: Status, now: float) -> Html:
    here = _same(member.instance, status.instance)
    role = f"{member.role}, {_readiness(status)}" if here else member.role
    age = None if member.since is None else f"pid {member.pid}, connected for {_duration(now - member.since)}"
    return _row(member.instance, role, "busy" if member.role == "migrating" else None, here, age)


def _same(member: str, instance: str) -> bool:
    # the server keeps only the beginning of a long name
    return member == instance or (len(member.encode()) > 30 and instance.startswith(member))


def _row(instance: str, role: str, tone: str | None, here: bool, age: str | None) -> Html:
    name = element("span", instance, element("span", " (this instance)", class_="soft") if here else None)
    line = element("div", name, element("span", role, class_=f"role {tone}" if tone else "role"), class_="row")
    return element("li", line, element("div", age, class_="soft") if age else None)


def _readiness(status: Status) -> str:
    return "ready" if status.ready else "not ready"


def _last_run(run: LastRun | None) -> Iterator[Html]:
    if run is None:
        return
    took = f", {_duration(run.finished_at - run.started_at)}" if run.started_at and run.finished_at else ""
    when = f"{run.result} by {run.instance}, {clock(run.started_at)}{took}"
    timed = [*run.seconds, *[None] * (len(run.applied) - len(run.seconds))]
    longest = max(run.seconds, default=0.0)
    steps = [_step(name, seconds, longest) for name, seconds in zip(run.applied, timed, strict=True)]
    more = element("li", f"and {len(steps) - SHOWN} before", class_="soft") if len(steps) > SHOWN else None
    if run.failed is not None:
        line = element("div", element("code", run.failed), element("span", "✕ failed", class_="role"), class_="row")
        steps.append(element("li", line, class_="bad"))
    error = element("pre", run.error) if run.error else None
    yield _section("Last run", element("p", when), element("ol", more, *steps[-SHOWN - 1 :]), error)


def _recent(rows: tuple[Recorded, ...]) -> Iterator[Html]:
    if rows:
        yield _section("History", element("ol", *map(_recorded, rows)))


def _recorded(row: Recorded) -> Html:
    what = row.outcome if row.direction == "upgrade" else f"{row.direction}, {row.outcome}"
    tone = "bad" if row.outcome in BAD else "ok" if row.outcome in GOOD else None
    line = element("div", element("code", row.revision), element("span", what, class_="role"), class_="row")
    took = "" if row.seconds is None else f", {_duration(row.seconds)}"
    when = f"{datetime.fromtimestamp(row.started_at, UTC):%Y-%m-%d %H:%M:%S} UTC{took}, {row.instance}"
    return element("li", line, element("div", when, class_="soft"), class_=tone)


def _step(name: str, seconds: float | None, longest: float) -> Html:
    took = "✓" if seconds is None else f"✓ {_duration(seconds)}"
    line = element("div", element("code", name), element("span", took, class_="role"), class_="row")
    return element("li", line, None if seconds is None else _bar(seconds / longest if longest else 0), class_="ok")


def _bar(share: float) -> Html:
    rail = element("rect", width="100%", height="100%", rx=3, class_="rail")
    bar = element("rect", width=f"{max(1.0, 100 * share):.1f}%", height="100%", rx=3, class_="bar")
    return element("svg", rail, bar, aria_hidden="true")


def facts(*pairs: tuple[str, object]) -> Html:
    """Names and values."""
    return element("dl", *(joined(element("dt", name), element("dd", value)) for name, value in pairs))


def names(revisions: frozenset[str]) -> str:
    """Revisions, sorted."""
    return ", ".join(sorted(revisions)) or "base"


def clock(epoch_seconds: float | None) -> str:
    """The time of day, in UTC."""
    return "" if epoch_seconds is None else f"{datetime.fromtimestamp(epoch_seconds, UTC):%H:%M:%S} UTC"


def _duration(seconds: float) -> str:
    if seconds < 10:
        return f"{max(seconds, 0):.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
