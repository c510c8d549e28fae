"""What this instance is doing: phases, the legal moves between them, and the one writer of the status."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from .schema import Recorded, Schema


class Phase(StrEnum):
    """What the instance is doing about the schema."""

    STARTING = "starting"
    CHECKING = "checking"
    WAITING = "waiting"
    MIGRATING = "migrating"
    VERIFYING = "verifying"
    READY = "ready"
    FAILED = "failed"
    OFF = "off"


MOVES: dict[Phase, frozenset[Phase]] = {
    Phase.STARTING: frozenset({Phase.CHECKING, Phase.FAILED, Phase.OFF}),
    Phase.CHECKING: frozenset({Phase.WAITING, Phase.MIGRATING, Phase.READY, Phase.FAILED}),
    Phase.WAITING: frozenset({Phase.MIGRATING, Phase.READY, Phase.FAILED}),
    Phase.MIGRATING: frozenset({Phase.VERIFYING, Phase.WAITING, Phase.FAILED}),
    Phase.VERIFYING: frozenset({Phase.READY, Phase.MIGRATING, Phase.WAITING, Phase.FAILED}),
    # Readiness latches: whatever happens to the schema later, a ready instance stays ready.
    Phase.READY: frozenset(),
    Phase.FAILED: frozenset(),
    Phase.OFF: frozenset(),
}


class IllegalMove(AssertionError):
    """A bug in this package: the table of moves does not allow it. Nothing was changed."""


@dataclass(frozen=True)
class Holder:
    """Who holds the lock, as any role may see it."""

    instance: str
    pid: int | None = None
    """Of the server's process or connection; of the process itself where the lock is a file's."""
    since: float | None = None
    """Epoch seconds since when the holder's session is connected."""
    state: str | None = None


@dataclass(frozen=True)
class Blocker:
    """A session that is in the migration's way, as far as this role may see it.

    `seconds` is the age of its transaction; `relation` and `mode` are what the migration waits for.
    """

    pid: int
    application: str | None = None
    user: str | None = None
    state: str | None = None
    seconds: float | None = None
    relation: str | None = None
    mode: str | None = None

    def __str__(self) -> str:
        age = "" if self.seconds is None else f" for {self.seconds:.0f} s"
        who = f"{self.application or 'unnamed'}, user {self.user}, {self.state or 'state hidden'}{age}"
        # a row that somebody changed, or an old snapshot, is waited for as their transaction, which has no table
        what = f"of {self.mode} on {self.relation}" if self.relation else "until its transaction ends"
        return f"pid {self.pid} ({who}) in the way {what}"


@dataclass(frozen=True)
class Statement:
    """What the session that migrates is executing: its kind, never its text."""

    kind: str
    phase: str | None = None
    """Of a concurrent index build, in PostgreSQL's words."""
    percent: float | None = None
    """Of that phase."""
    seconds: float | None = None
    """Since it began."""

    def __str__(self) -> str:
        phase = f", {self.phase}" if self.phase else ""
        percent = "" if self.percent is None else f" {self.percent:.0f} %"
        seconds = "" if self.seconds is None else f" for {self.seconds:.0f} s"
        return f"{self.kind}{phase}{percent}{seconds}"


@dataclass(frozen=True)
class Member:
    """A session of an instance or command; `role` is "waiting" or "migrating", `since` in epoch seconds."""

    instance: str
    role: str
    pid: int
    since: float | None = None


@dataclass(frozen=True)
class Retry:
    """A revision did not get its table lock and is tried again; until then its session does nothing."""

    attempt: int
    """The number of the try that failed; the first is 1."""
    seconds: float
    """Until the next one."""

    def __str__(self) -> str:
        return f"attempt {self.attempt} did not get its lock, the next one is in {self.seconds:.0f} s"


@dataclass(frozen=True)
class LockStatus:
    """One look at everybody who has to do with the lock."""

    holder: Holder | None = None
    statement: Statement | None = None
    """What the holder executes; None between two statements, and where that is hidden."""
    blocked_by: tuple[Blocker, ...] = ()
    """Who is in the holder's way; between two tries, who was in the way of the last one."""
    fleet: tuple[Member, ...] = ()
    changed_at: float | None = None
    """When the holder last began or ended a statement, in epoch seconds of the server's clock."""
    silent_seconds: float | None = None
    """For how long the holder's client has left off in the middle of a statement's words; None where it has not."""
    grant: str | None = None
    """What would show this role what the holder is doing; None where it sees that."""
    problem: str | None = None
    """Why nobody can take the lock now, though it may be free."""
    retry: Retry | None = None
    """What the holder waits for, where it is between two tries."""

    def __str__(self) -> str:
        problem = f"; {self.problem}" if self.problem else ""
        if self.holder is None:
            return f"nobody holds the lock{problem}"
        does = f": {self.statement or self.retry}" if self.statement or self.retry else ""
        ways = "".join(f"; {blocker}" for blocker in self.blocked_by)
        pid = "" if self.holder.pid is None else f" (pid {self.holder.pid})"
        # who is only elected has no session yet
        has = "leads" if self.holder.pid is None else "holds the lock"
        return f"{self.holder.instance}{pid} {has}{does}{ways}{problem}"


@dataclass(frozen=True)
class Progress:
    """How far the migration is; `current` is the revision being applied, if any. Times in epoch seconds."""

    applied: int = 0
    total: int = 0
    current: str | None = None
    started_at: float | None = None
    attempt: int | None = None
    """How often the current revision has been tried, where it had to be tried again."""
    next_try_at: float | None = None


@dataclass(frozen=True)
class LastRun:
    """The last attempt this instance made or saw. Times in epoch seconds."""

    result: str
    instance: str
    started_at: float | None = None
    finished_at: float | None = None
    applied: tuple[str, ...] = ()
    error: str | None = None
    seconds: tuple[float, ...] = ()
    """How long each of `applied` took."""
    failed: str | None = None
    """The revision that was being applied when it failed."""


@dataclass(frozen=True)
class Counters:
    """What this instance has counted since it started."""

    runs: tuple[str, ...] = ()
    """How each run that it began has ended: "applied", "failed" or "interrupted"."""
    contended: int = 0
    """How often a step of it did not get a table's lock and was rolled back."""
    step_seconds: tuple[float, ...] = ()
    """How long each step took that it ran to its end."""


@dataclass(frozen=True)
class Status:
    """A snapshot. Immutable, so that a probe may read it from another thread without a lock."""

    phase: Phase = Phase.STARTING
    since: float = field(default_factory=time.time)
    instance: str = ""
    release: str | None = None
    strategy: str = ""
    dialect: str = ""
    lock_key: str | None = None
    holder_kind: str = "session"
    """What `Holder.pid` numbers: a database session, or a process."""
    reachable: bool | None = None
    schema: Schema = Schema()
    schemas: Mapping[str, Schema] = field(default_factory=dict)
    """Where each schema stands, by its name, where env.py runs the revisions for several."""
    progress: Progress = Progress()
    lock_status: LockStatus = LockStatus()
    invalid_indexes: tuple[str, ...] = ()
    """Those that this instance's run has found or left, by their quoted names."""
    waiting_since: float | None = None
    last_run: LastRun | None = None
    last_success: float | None = None
    """When a run of anybody last succeeded, as the last look found in the history table; epoch seconds."""
    last_failure: float | None = None
    """When an attempt of anybody last failed, likewise."""
    recent: tuple[Recorded, ...] = ()
    """The newest rows of the history table at the last look, newest first."""
    tally: Counters = Counters()
    message: str | None = None
    """One line for people: what it waits for, or why it failed."""

    @property
    def ready(self) -> bool:
        """Whether requests may be served."""
        return self.phase in {Phase.READY, Phase.OFF}

    def run_seconds(self, now: float) -> float | None:
        """How long the run has lasted that this instance makes or watches, or lasted; None without one."""
        started, run = self.progress.started_at, self.last_run
        if started is None:
            return None
        over = self.phase in {Phase.READY, Phase.FAILED, Phase.OFF}
        ended = run.finished_at if run and run.finished_at else self.since if over else now
        return max(0.0, ended - started)


class Tracker:
    """The one writer of the status; readers take `status`, which is replaced whole."""

    def __init__(self, **facts: Any) -> None:
        self.status = Status(**facts)

    def move(self, phase: Phase, **facts: Any) -> None:
        """Enter `phase` and record `facts` (fields of `Status`) with it.

        Raises:
            IllegalMove: the table does not allow it; the status is unchanged.
        """
        if phase not in MOVES[self.status.phase]:
            raise IllegalMove(f"{self.status.phase} -> {phase}")
        self.status = replace(self.status, phase=phase, since=time.time(), **facts)

    def note(self, **facts: Any) -> None:
        """Record `facts` without a change of phase."""
        self.status = replace(self.status, **facts)
