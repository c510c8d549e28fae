"""A simulated database server: its backends outlive their clients, and it has one lock and a version table.

A backend outlives its client as PostgreSQL's does. An idle backend notices at once that the connection has ended. A
backend that executes a statement notices it at the statement's end, or at the next check of the connection if the
server makes such checks.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field

from api.migrations.errors import DatabaseUnreachable, HoldLost

CHECK_INTERVAL_SECONDS = 1.0
LOSSES_OF_AN_ORDER = 2


class Violation(AssertionError):
    """A promise that was broken."""


@dataclass
class Row:
    """A row of the history table."""

    revision: str
    parents: frozenset[str]
    instance: str
    release: str | None
    started_at: float
    outcome: str = "running"
    error: str | None = None
    finished_at: float | None = None


@dataclass
class Database:
    """The server, with what was committed."""

    max_connections: int = 100
    revisions: set[str] = field(default_factory=set)
    history: list[Row] = field(default_factory=list)
    applied: list[str] = field(default_factory=list)
    half_applied: set[str] = field(default_factory=set)
    """The revisions of which a part is committed, or may be, whatever the history says."""
    begun_again: int = 0
    """How often a half-applied revision was run again, as its release allows."""
    losses: Counter[tuple[str, str]] = field(default_factory=Counter)
    """How often a revision ended its own session, by instance and revision."""
    up: bool = True
    lock_owner: Backend | None = None
    backends: set[Backend] = field(default_factory=set)
    notified: asyncio.Event = field(default_factory=asyncio.Event)

    def now(self) -> float:
        """Return the server's time in seconds."""
        return asyncio.get_running_loop().time()

    def connect(self, instance: str) -> Backend:
        """Return a backend for a client of `instance`."""
        if not self.up or len(self.backends) >= self.max_connections:
            raise DatabaseUnreachable("the server is away or full")
        backend = Backend(self, instance)
        self.backends.add(backend)
        return backend

    def restart(self) -> None:
        """End every session at once and roll back what it did not commit."""
        for backend in list(self.backends):
            backend.die()

    def lose(self, backend: Backend, revision: str, *, crash: bool) -> None:
        """End the session of `backend` by its revision, or crash the server and end every session."""
        self.losses[backend.instance, revision] += 1
        if self.losses[backend.instance, revision] > LOSSES_OF_AN_ORDER:
            raise Violation(f"{backend.instance} began {revision} again, in which it had lost its session twice")
        if crash:
            self.restart()
        else:
            backend.die()

    def notify(self) -> None:
        """Wake every listener."""
        self.notified.set()
        self.notified = asyncio.Event()

    def begin(self, row: Row, idempotent: frozenset[str]) -> None:
        """Commit the history row of an attempt before the attempt."""
        unfinished = self.half_applied - idempotent
        if unfinished:
            raise Violation(
                f"{', '.join(sorted(unfinished))} was half applied, and {row.instance} began {row.revision}"
            )
        self.begun_again += row.revision in self.half_applied
        self.history.append(row)

    def commit(self, backend: Backend, revision: str, parents: frozenset[str]) -> None:
        """Commit the version row and the history row of a finished revision."""
        if revision in self.applied:
            raise Violation(f"{revision} was applied twice, now by {backend.instance}")
        self.applied.append(revision)
        self.revisions -= parents
        self.revisions.add(revision)
        self.half_applied.discard(revision)
        self.history[-1].outcome = "applied"


class Backend:
    """The server's side of one connection."""

    def __init__(self, database: Database, instance: str) -> None:
        self.database = database
        self.instance = instance
        self.alive = True
        self.migrating: str | None = None
        self.check_interval_seconds: float | None = CHECK_INTERVAL_SECONDS
        """The seconds until a statement notices that its client has gone; None means at its end."""
        self._client_there = True
        self._statement: asyncio.Future[None] | None = None

    async def execute(self, seconds: float) -> None:
        """Execute a statement that takes `seconds` in the server, even if its client disappears."""
        self.check()
        loop = asyncio.get_running_loop()
        self._statement = statement = loop.create_future()
        loop.call_later(seconds, self._finish, statement)
        try:
            await asyncio.shield(statement)
        except asyncio.CancelledError:
            self._cancel(statement)
            raise
        self.check()

    def _cancel(self, statement: asyncio.Future[None]) -> None:
        # A driver sends a cancel request and waits for the answer; a client that is cut off or killed cannot.
        if self._client_there and not statement.done():
            statement.set_result(None)
            self.migrating = None

    def enter(self, revision: str) -> None:
        """Begin a revision's transaction."""
        inside = [b for b in self.database.backends if b.migrating and b is not self]
        if inside:
            raise Violation(f"{self.instance} runs {revision} while {inside[0].instance} runs {inside[0].migrating}")
        self.migrating = revision

    def check(self) -> None:
        """Raise unless the session lives."""
        if not self.alive:
            raise DatabaseUnreachable("the session is gone")

    def check_hold(self, owner: Backend) -> None:
        """Raise HoldLost unless `owner` holds the lock."""
        if self.database.lock_owner is not owner:
            raise HoldLost("another session holds the lock")

    def client_gone(self) -> None:
        """End the client's side of the connection: killed, cut off or closed."""
        self._client_there = False
        if self._statement is None or self._statement.done():
            self.die()
        elif self.check_interval_seconds is not None:
            asyncio.get_running_loop().call_later(self.check_interval_seconds, self.die)

    def die(self) -> None:
        """End the session: roll back and release its lock."""
        self.alive, self.migrating = False, None
        self.database.backends.discard(self)
        if self.database.lock_owner is self:
            self.database.lock_owner = None
        if self._statement is not None and not self._statement.done():
            self._statement.set_result(None)

    def _finish(self, statement: asyncio.Future[None]) -> None:
        if not statement.done():
            statement.set_result(None)
        if not self._client_there:
            self.die()
