"""The results of commands: each renders itself as lines for people, and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from ..core.remedies import Advice
from ..core.retried import retries_together
from ..core.schema import SchemaState, invalid_index_advice
from ..core.scope import by_kind
from ..core.status import Blocker, Holder, Member, Retry, Statement
from ..databases.backend import Verdict
from ..text.encoding import restored


@dataclass(frozen=True, kw_only=True)
class Result:
    """The result of a command; its fields are the keys of the JSON."""

    message: str = ""

    @property
    def exit_code(self) -> int:
        """The exit code of the command."""
        return 0

    def lines(self) -> Iterator[str]:
        """Yield the lines for people."""
        yield self.message

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object, without optional fields that are None."""
        optional = {each.name for each in fields(self) if each.default is None}
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: value for name, value in values.items() if name not in optional or value is not None}


@dataclass(frozen=True, kw_only=True)
class Backups:
    """The backups that a command made: for each `path`, `bytes`, `sha256`, `revisions` and the `restore` command."""

    made: Sequence[Any]
    restores_into: str

    def lines(self) -> Iterator[str]:
        """Yield each backup and the command that restores it."""
        for backup in self.made:
            yield f"backup: {backup.path} ({backup.bytes} bytes, SHA-256 {backup.sha256})"
            yield f"to restore it {self.restores_into}:"
            yield f"  {backup.restore}"
        if not self.made:
            yield "nothing was pending, so no backup was made"


@dataclass(frozen=True, kw_only=True)
class SchemaReport(Result):
    """The state of the database, the steps that the command ran, and the backups that it made."""

    state: SchemaState | None = None
    revisions: Sequence[str] | None = None
    steps: Sequence[str] | None = None
    backups: Backups | None = None
    dialect: str | None = None

    def lines(self) -> Iterator[str]:
        """Yield the steps, the state and the backups."""
        yield from (f"  {step}" for step in self.steps or ())
        yield self.message
        if self.backups is not None:
            yield from self.backups.lines()

    def as_json(self) -> dict[str, Any]:
        """Return the fields, with the backups as a list."""
        return super().as_json() | ({} if self.backups is None else {"backups": self.backups.made})


@dataclass(frozen=True, kw_only=True)
class NewRevision(Result):
    """The revision file that was written, if any."""

    revision: str | None = None
    path: str | None = None
    """Relative to the current folder."""

    def lines(self) -> Iterator[str]:
        """Yield the path, or why there is no file."""
        yield self.path or self.message


@dataclass(frozen=True)
class Plan:
    """The steps of a downgrade, newest first, and the revision that stays; None below a merge, which has several."""

    steps: tuple[str, ...]
    stays: str | None


@dataclass(frozen=True, kw_only=True)
class Attempts(Result):
    """Rows of the history table, newest first."""

    history: Sequence[Mapping[str, Any]]

    def lines(self) -> Iterator[str]:
        """Yield one line for each attempt."""
        yield from map(_attempt_line, self.history) if self.history else ("no history yet",)

    def as_json(self) -> dict[str, Any]:
        """Return the rows."""
        return {"history": self.history}


@dataclass(frozen=True)
class Finding:
    """The result of one of doctor's checks, and how to fix it."""

    check: str
    verdict: Verdict
    message: str


@dataclass(frozen=True, kw_only=True)
class Findings(Result):
    """Doctor's findings."""

    findings: Sequence[Finding]

    @property
    def exit_code(self) -> int:
        """1 if a check failed."""
        return int(any(finding.verdict is Verdict.FAIL for finding in self.findings))

    def as_json(self) -> dict[str, Any]:
        """Return the fields and the exit code."""
        return super().as_json() | {"exit_code": self.exit_code}

    def lines(self) -> Iterator[str]:
        """Yield one line for each check."""
        yield from (f"{finding.verdict:4}  {finding.check:12}  {finding.message}" for finding in self.findings)
        yield self.message


@dataclass(frozen=True, kw_only=True)
class StatusReport(Result):
    """The state of the database, the pending revisions, and the sessions that hold or want the lock."""

    state: SchemaState
    revisions: Sequence[str]
    expected_heads: Sequence[str]
    pending: Sequence[str]
    lock: Mapping[str, Any]
    """`key` and `holder`."""
    statement: Statement | None
    retry: Retry | None
    blocked_by: Sequence[Blocker]
    elected: Mapping[str, str] | None
    """`leader` and the name of its `hold`."""
    fleet: Sequence[Member]
    grant: str | None
    invalid_indexes: Sequence[str]
    countdown: str | None = None
    """For how long other sessions have blocked the lock holder, and when its run gives up."""
    advice: Advice | None = None
    """What to do now; None if nothing."""

    def lines(self) -> Iterator[str]:
        """Yield the state, the lock, the sessions, and what to do."""
        yield self.message
        yield from (f"  pending: {revision}" for revision in self.pending)
        yield from self._lock()
        if self.invalid_indexes:
            yield invalid_index_advice(self.invalid_indexes)
        if self.advice is not None:
            yield from advice_lines(self.advice)

    def as_json(self) -> dict[str, Any]:
        """Return the fields, with the advice as at /health/migrations."""
        return super().as_json() | {"advice": None if self.advice is None else self.advice.as_json()}

    def _lock(self) -> Iterator[str]:
        holder, does = self.lock["holder"], self.statement or self.retry
        held = f"held by {holder.instance}{_known(holder, hidden=bool(self.grant))}" if holder else "free"
        yield f"lock {self.lock['key']}: {held}{f': {does}' if does else ''}"
        if self.elected:
            yield "elected: {leader} (until its hold ends; {hold})".format_map(self.elected)
        yield from (f"  {blocker}" for blocker in self.blocked_by)
        if self.countdown:
            yield f"  {self.countdown}"
        yield from (f"  session: {member.role} {member.instance} (pid {member.pid})" for member in self.fleet)
        if self.grant:
            whose = "the lock holder or a blocking session executes"
            yield f"  this role cannot see what {whose}. To fix: as a superuser, run {self.grant}"


@dataclass(frozen=True, kw_only=True)
class InEachScope(Result):
    """The results of a command that ran for each version table that env.py names."""

    scopes: Mapping[str, Result]
    """By the scopes' names, "schema shop" or "database orders"."""

    @property
    def exit_code(self) -> int:
        """The largest of the results'."""
        return max(result.exit_code for result in self.scopes.values())

    def lines(self) -> Iterator[str]:
        """Yield the lines of each scope, indented."""
        for name, result in self.scopes.items():
            yield f"{name}:"
            yield from (f"  {line}" for line in result.lines())

    def as_json(self) -> dict[str, Any]:
        """Return one object for each scope, under `schemas` or `databases`."""
        return {**by_kind({name: one.as_json() for name, one in self.scopes.items()}), "message": self.message}


def advice_lines(advice: Advice) -> Iterator[str]:
    """Yield the advice, each command on a line of its own, ready to copy."""
    yield f"what to do: {advice.text} See {advice.runbook}"
    yield from (f"  {command}" for command in advice.commands)
    if advice.urls:
        yield f"  ({advice.urls})"


def _known(holder: Holder, *, hidden: bool) -> str:
    # only PostgreSQL has states, and hides them from some roles
    known = [f"pid {holder.pid}"] if holder.pid else []
    known += [holder.state] if holder.state else ["state hidden"] if hidden else []
    return f" ({', '.join(known)})" if known else ""


def attempt(row: Mapping[str, Any], description: str) -> dict[str, Any]:
    """Return a row of the history table with its duration and its revision's description."""
    began, ended = row["started_at"], row["finished_at"]
    seconds = (ended - began).total_seconds() if ended else None
    invalid = json.loads(row.get("invalid_before") or "[]")
    legible = {name: restored(row[name]) for name in ("instance", "error", "note") if row.get(name)}
    return {**row, **legible, "invalid_before": invalid, "seconds": seconds, "description": description}


def retries_as_one(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows, newest first, with their number of `attempts`; consecutive retries of a revision are one row."""
    groups = retries_together(rows, lambda row: (row["revision"], row["direction"], row["outcome"]))
    return [{**group[0], "started_at": group[-1]["started_at"], "attempts": len(group)} for group in groups]


def _attempt_line(row: Mapping[str, Any]) -> str:
    started, finished = row["started_at"], row["finished_at"]
    took = f"{(finished - started).total_seconds():8.3f} s" if finished else "         -"
    # an older history table has no notes; other notes are for waiters
    note = row.get("note") if row["direction"] in {"backup", "stamp"} else None
    more = "".join(f"  {text}" for text in (row["error"], note) if text)
    times = f"{row['attempts']} times  " if row.get("attempts", 1) > 1 else ""
    user = f" ({row['database_user']})" if row["database_user"] else ""
    return (
        f"{started:%Y-%m-%d %H:%M:%S}Z {took}  {row['direction']:9} {row['outcome']:12} "
        f"{times}{row['description']}  by {row['instance']}{user}{more}"
    )
