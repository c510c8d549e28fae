"""The status of this instance: its phases, the legal moves between them, and the one writer."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from ..errors import MigrationError
from .schema import Recorded, Schema


class Phase(StrEnum):
    """The phases of a start, and the one before the stop."""

    STARTING = "starting"
    CHECKING = "checking"
    WAITING = "waiting"
    MIGRATING = "migrating"
    VERIFYING = "verifying"
    READY = "ready"
    FAILED = "failed"
    OFF = "off"
    DRAINING = "draining"


MOVES: dict[Phase, frozenset[Phase]] = {
    Phase.STARTING: frozenset({Phase.CHECKING, Phase.FAILED, Phase.OFF}),
    Phase.CHECKING: frozenset({Phase.WAITING, Phase.MIGRATING, Phase.READY, Phase.FAILED}),
    Phase.WAITING: frozenset({Phase.MIGRATING, Phase.READY, Phase.FAILED}),
    Phase.MIGRATING: frozenset({Phase.VERIFYING, Phase.WAITING, Phase.FAILED}),
    Phase.VERIFYING: frozenset({Phase.READY, Phase.MIGRATING, Phase.WAITING, Phase.FAILED}),
    # a ready instance stays ready, whatever happens to the schema later, until it is stopped
    Phase.READY: frozenset({Phase.DRAINING}),
    # a held instance becomes ready when another run has brought the schema to head
    Phase.FAILED: frozenset({Phase.READY}),
    Phase.OFF: frozenset({Phase.DRAINING}),
    Phase.DRAINING: frozenset(),
}

SETTLED = frozenset({Phase.READY, Phase.FAILED, Phase.OFF, Phase.DRAINING})
"""The phases in which the start has ended: the instance neither waits nor migrates."""

BLOCKED_UNTIL_SECONDS = 30.0
"""A revision that no session has been seen to block for so long is no longer blocked, whatever its last attempt was."""


class IllegalMove(AssertionError):
    """A bug in this package: `MOVES` does not allow the move. The status is unchanged."""


@dataclass(frozen=True)
class Holder:
    """The holder of the lock, as any role may see it."""

    instance: str
    pid: int | None = None
    """The number of its server process or connection; of its own process if the lock is a file."""
    since: float | None = None
    """When its session connected, in epoch seconds."""
    state: str | None = None


@dataclass(frozen=True)
class Blocker:
    """A session that blocks the migration, as far as this role may see it; `seconds` is its transaction's age."""

    pid: int
    """0 is a prepared transaction, which has no session."""
    application: str | None = None
    user: str | None = None
    state: str | None = None
    seconds: float | None = None
    relation: str | None = None
    mode: str | None = None
    terminate_needs: str | None = None
    """The GRANT that this role lacks to terminate it, or "superuser" if only a superuser may; None if it may."""
    lacks: str | None = None
    """For the sessions of an older build: the revision without which it cannot run after the next one."""
    sessions: int = 1
    """How many sessions of this application it stands for."""

    def __str__(self) -> str:
        return self.said("blocks")

    def said(self, verb: str) -> str:
        """Return a line for people; `verb` is "blocks", or "blocked" for a moment that is over."""
        if self.lacks is not None:
            of = f"{self.application}, user {self.user}, sessions: {self.sessions}"
            return f"pid {self.pid} ({of}) {verb} the migration until its instance stops, because it lacks {self.lacks}"
        age = "" if self.seconds is None else f" for {self.seconds:.0f} s"
        session = f"{self.application or 'unnamed'}, user {self.user}, {self.state or 'state hidden'}{age}"
        # a wait for a changed row or an old snapshot is a wait for a transaction, which has no table
        blocked = f"{self.mode} on {self.relation}" if self.relation else "the migration until its transaction ends"
        if not self.pid:
            return f"a prepared transaction {verb} {blocked}"
        return f"pid {self.pid} ({session}) {verb} {blocked}"


@dataclass(frozen=True)
class Statement:
    """The lock holder's statement: its kind, never its text; `phase` and `percent` of a concurrent index build.

    The batches of a backfill are one: it has passed `rows` of `total_rows`, an estimate, and fills `rows_per_second`.
    """

    kind: str
    phase: str | None = None
    percent: float | None = None
    seconds: float | None = None
    rows: int | None = None
    total_rows: int | None = None
    rows_per_second: float | None = None

    def __str__(self) -> str:
        phase = f", {self.phase}" if self.phase else ""
        percent = "" if self.percent is None else f" {self.percent:.0f} %"
        seconds = "" if self.seconds is None else f" for {self.seconds:.0f} s"
        of = "" if self.total_rows is None else f" of about {self.total_rows:,}"
        rows = "" if self.rows is None else f": {self.rows:,}{of} rows, {self.rows_per_second or 0:,.0f} rows/s"
        return f"{self.kind}{phase}{percent}{seconds}{rows}"


@dataclass(frozen=True)
class Member:
    """A session of an instance or command; `role` is "waiting" or "migrating", `since` in epoch seconds."""

    instance: str
    role: str
    pid: int
    since: float | None = None


@dataclass(frozen=True)
class Retry:
    """The lock holder's pause of `seconds` after the contended `attempt` at a revision (the first is 1)."""

    attempt: int
    seconds: float

    def __str__(self) -> str:
        return f"attempt {self.attempt} did not acquire its table lock, the next one is in {self.seconds:.0f} s"


@dataclass(frozen=True)
class LockStatus:
    """The holder of the lock, the sessions that block it, and the waiters, at one moment."""

    holder: Holder | None = None
    statement: Statement | None = None
    """What the holder executes; None between two statements, or if this role may not see it."""
    blocked_by: tuple[Blocker, ...] = ()
    """The sessions that block the holder; between two attempts, those that blocked the last one."""
    fleet: tuple[Member, ...] = ()
    changed_at: float | None = None
    """When the holder's last statement started or finished, in epoch seconds of the server's clock."""
    silent_seconds: float | None = None
    """How long ago the holder's client stopped in the middle of sending a statement; None if it did not."""
    grant: str | None = None
    """The GRANT that shows this role what the holder and the blocking sessions do; None if it sees that."""
    problem: str | None = None
    """Why no session can acquire the lock now, although it may be free."""
    retry: Retry | None = None
    """The holder's pause, if it is between two attempts."""

    def __str__(self) -> str:
        problem = f"; {self.problem}" if self.problem else ""
        if self.holder is None:
            return f"no session holds the lock{problem}"
        # without the time of the next attempt, which is soon outdated in a message
        pause = self.retry and f"attempt {self.retry.attempt} did not acquire its table lock"
        does = f": {self.statement or pause}" if self.statement or pause else ""
        blockers = "".join(f"; {blocker}" for blocker in self.blocked_by)
        # an instance that is only elected has no session yet
        pid, has = ("", "leads") if self.holder.pid is None else (f" (pid {self.holder.pid})", "holds the lock")
        return f"{self.holder.instance}{pid} {has}{does}{blockers}{problem}"


@dataclass(frozen=True)
class Progress:
    """The progress: `current` is the revision that runs, `attempt` is set if it was retried. Times in epoch seconds."""

    applied: int = 0
    total: int = 0
    current: str | None = None
    started_at: float | None = None
    attempt: int | None = None
    next_try_at: float | None = None


@dataclass(frozen=True)
class LastRun:
    """This instance's last run; `seconds` are those of each revision in `applied`. Times in epoch seconds."""

    result: str
    instance: str
    started_at: float | None = None
    finished_at: float | None = None
    applied: tuple[str, ...] = ()
    error: str | None = None
    seconds: tuple[float, ...] = ()
    failed: str | None = None


@dataclass(frozen=True)
class Counters:
    """The counts of this instance since its start."""

    runs: tuple[str, ...] = ()
    """The result of each of its runs: "applied", "failed" or "interrupted"."""
    contended: int = 0
    """How often a step did not acquire its table lock and was rolled back."""
    step_seconds: tuple[float, ...] = ()
    """The time of each finished step."""


@dataclass(frozen=True)
class Limit:
    """When the current wait or run gives up, in epoch seconds, and the setting that limits it."""

    at: float
    setting: str


@dataclass(frozen=True)
class Status:
    """A snapshot. Immutable, so that a probe may read it from another thread without a lock."""

    phase: Phase = Phase.STARTING
    since: float = field(default_factory=time.time)
    instance: str = ""
    release: str | None = None
    strategy: str = ""
    wait_budget_seconds: float = 300.0
    """MIGRATION_WAIT_SECONDS; the next one is MIGRATION_RUN_SECONDS, of the current database."""
    run_budget_seconds: float = 300.0
    dialect: str = ""
    lock_key: str | None = None
    holder_kind: str = "session"
    """What `Holder.pid` is the number of: "session" or "process"."""
    reachable: bool | None = None
    unreachable_since: float | None = None
    """Since when every attempt to connect has failed; this and the other times are in epoch seconds."""
    read_at: float | None = None
    """When the schema and the history were last read."""
    schema: Schema = Schema()
    scopes: Mapping[str, Schema] = field(default_factory=dict)
    """The version tables by name ("schema shop", "database orders"), if there are several."""
    progress: Progress = Progress()
    lock_status: LockStatus = LockStatus()
    """As last read; after a failure, by a held instance."""
    blocked_since: float | None = None
    """Since when other sessions have blocked the current revision."""
    blocked_at: float | None = None
    """When they were last seen to block it; between two attempts, when the next one begins."""
    limit: Limit | None = None
    """When the current wait or run gives up; None when ready or failed."""
    at_failure: LockStatus | None = None
    """The lock status as last read before the failure, if there was any."""
    held: bool = False
    """Whether this failed instance looks at the database, and becomes ready once the schema is at head."""
    invalid_indexes: tuple[str, ...] = ()
    """The quoted names of those that this instance's run found or left."""
    waiting_since: float | None = None
    last_run: LastRun | None = None
    last_success: float | None = None
    """When any instance's run last succeeded, in epoch seconds; like the next two, as last read from the history."""
    last_failure: float | None = None
    recent: tuple[Recorded, ...] = ()
    """The newest rows of the history table, newest first."""
    counters: Counters = Counters()
    message: str | None = None
    """One line for people: what the instance waits for, or why it failed."""
    error_class: type[MigrationError] | None = None
    """Of the error with which it failed, or because of which it cannot reach the database."""

    @property
    def ready(self) -> bool:
        """Whether a balancer should send requests. A draining instance serves those that still arrive."""
        return self.phase in {Phase.READY, Phase.OFF}

    def blocked_seconds(self, now: float) -> float:
        """For how long other sessions have blocked the current revision; 0 if none has been seen for 30 s."""
        since, seen = self.blocked_since, self.blocked_at
        return 0.0 if since is None or _outdated(seen, now) else max(0.0, now - since)


class Tracker:
    """The one writer of the status; readers use `status`, which is replaced as a whole."""

    def __init__(self, **facts: Any) -> None:
        self.status = Status(**facts)
        # an env.py with a connection of its own runs in another thread than what observes its statements
        self._guard = threading.Lock()

    def move(self, phase: Phase, **facts: Any) -> None:
        """Enter `phase` and record `facts` (fields of `Status`) with it.

        Raises:
            IllegalMove: `MOVES` does not allow it; the status is unchanged.
        """
        before = self.status
        if phase not in MOVES[before.phase]:
            raise IllegalMove(f"{before.phase} -> {phase}")
        if phase is Phase.FAILED:
            # what was seen before the failure is no longer shown as if it were so now
            seen, progress = before.lock_status, replace(before.progress, current=None, attempt=None, next_try_at=None)
            last_seen = None if seen == LockStatus() else seen
            facts |= {"at_failure": last_seen, "lock_status": LockStatus(), "progress": progress}
        if phase in SETTLED:
            facts |= {"limit": None, "held": False}
        self.note(phase=phase, since=time.time(), **facts)

    def note(self, **facts: Any) -> None:
        """Record `facts` in the same phase."""
        with self._guard:
            self.status = _noted(self.status, facts, time.time())


def _noted(before: Status, facts: dict[str, Any], now: float) -> Status:
    if "reachable" in facts:
        facts["unreachable_since"] = None if facts["reachable"] else before.unreachable_since or now
    if "lock_status" in facts:
        facts |= _blockage(before, facts["lock_status"], facts.get("progress", before.progress), now)
    return replace(before, **facts)


def _outdated(seen: float | None, now: float) -> bool:
    return seen is None or now - seen > BLOCKED_UNTIL_SECONDS


def _blockage(before: Status, lock_status: LockStatus, progress: Progress, now: float) -> dict[str, float | None]:
    still, pause_ends = not _outdated(before.blocked_at, now), progress.next_try_at or 0.0
    if lock_status.blocked_by or pause_ends > now:
        return {"blocked_since": before.blocked_since if still else now, "blocked_at": max(now, pause_ends)}
    # an attempt is blocked again only when it comes to the same statement
    if still and progress.attempt is not None:
        return {}
    return {"blocked_since": None, "blocked_at": None}
