"""A `MigrationSession` on the simulated server, in which the schedule delays every awaited step."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from api.migrations.core.protocols import MigrationRequest, PastAttempt, ProgressListener
from api.migrations.core.schema import CodeRevisions, HalfApplied, Observed
from api.migrations.core.status import Holder, LockStatus
from api.migrations.errors import ConnectionLost, DatabaseUnreachable, OldInstances, RevisionFailed
from tests.simulation.database import Backend, Database, Row

if TYPE_CHECKING:
    from tests.simulation.elected import LeasedElector


@dataclass(frozen=True)
class Release:
    """A build: its revisions, how long each takes, and which of them misbehave."""

    name: str
    code: CodeRevisions
    seconds: Mapping[str, float]
    commits_inside: frozenset[str] = frozenset()
    fails: frozenset[str] = frozenset()
    loses: frozenset[str] = frozenset()
    """Revisions that always end their own session or crash the server."""


@dataclass
class Process:
    """A process of the operating system; after it is killed, nothing it does has an effect."""

    name: str
    running: asyncio.Event = field(default_factory=asyncio.Event)
    killed: bool = False
    backends: list[Backend] = field(default_factory=list)

    def kill(self) -> None:
        """Kill the process with SIGKILL; the server notices later that its connections have ended."""
        self.killed = True
        for backend in self.backends:
            backend.client_gone()


class Session:
    """One session of one process."""

    may_run_out_of_time = False
    """Whether the wait budget may end although nothing failed."""

    def __init__(self, database: Database, process: Process, release: Release, chance: random.Random) -> None:
        self.database = database
        self.process = process
        self.release = release
        self.chance = chance
        self.backend: Backend | None = None
        self.seen: frozenset[str] = frozenset()
        self.elector: LeasedElector | None = None

    @property
    def store(self) -> Session:
        """The tables: the session is its own store."""
        return self

    async def open(self) -> None:
        """Connect."""
        if self.backend is None or not self.backend.alive:
            await self._step()
            self.backend = self._connect()

    async def observe(self) -> Observed:
        """Return the version table and the half-applied revisions."""
        await self._query()
        self.seen = frozenset(self.database.revisions)
        half = tuple(HalfApplied(row.revision) for row in self.database.history if row.outcome == "half_applied")
        return Observed(self.seen, half)

    async def lineage(self) -> Mapping[str, frozenset[str]]:
        """Return the parents of revisions, from the history."""
        await self._query()
        return {row.revision: row.parents for row in self.database.history}

    async def contracts(self) -> Mapping[str, str]:
        """Return none: no revision is a contract."""
        return {}

    async def attempts(self, pending: Sequence[str], directions: Sequence[str] = ()) -> list[PastAttempt]:
        """Return the newest attempts at any of `pending`."""
        await self._query()
        now = self.database.now()
        return [
            PastAttempt(r.revision, r.outcome, r.instance, r.release, r.error, now - (r.finished_at or r.started_at))
            for r in reversed(self.database.history)
            if r.revision in pending
        ][:10]

    async def check_ids(self, request: MigrationRequest, revisions: frozenset[str]) -> None:
        """Accept every id."""

    async def try_lock(self) -> bool:
        """Acquire the lock if it is free; the grant may precede an answer that is late or lost."""
        backend = await self._query()
        if self.database.lock_owner is None:
            self.database.lock_owner = self._lock_backend(backend)
        await self._step()
        backend.check()
        return self.database.lock_owner is self._lock_backend(backend)

    async def lock_is_held(self) -> bool:
        """Return whether the lock is held."""
        await self._query()
        return self.database.lock_owner is not None

    async def old_instances(self, request: MigrationRequest) -> OldInstances | None:
        """Return None: no revision is a contract."""
        return None

    async def back_up_if_requested(self, request: MigrationRequest) -> None:
        """Do nothing: no backup is requested."""

    async def run(self, request: MigrationRequest, listener: ProgressListener) -> None:
        """Apply the revisions that were pending at the last read, one transaction each."""
        pending = self.release.code.pending(self.seen)
        listener.planned(pending, "Applied")
        for revision in pending:
            await self._apply(revision, listener)

    async def record_timeout(self, error: str) -> None:
        """Mark this process's open attempt as failed, on a second session."""
        await self.open()
        await self.record_failure(error, None, 0)

    async def record_failure(
        self, error: str, revision: str | None, age_seconds: float, error_class: str = "TimeoutError"
    ) -> None:
        """Mark this process's open attempt as failed."""
        await self._query()
        newest = next((row for row in reversed(self.database.history) if row.instance == self.process.name), None)
        this_one = newest is not None and newest.revision == revision
        if newest is not None and newest.outcome in {"running", "half_applied", "interrupted" if this_one else ""}:
            newest.outcome = "half_applied" if newest.outcome == "half_applied" else "failed"
            newest.error, newest.finished_at = error, self.database.now()
        elif revision is not None and not this_one:
            self._failed(revision, error)

    async def unlock(self) -> None:
        """Release the lock and notify the waiters."""
        backend = await self._query()
        backend.check_hold(self._lock_backend(backend))
        self.database.lock_owner = None
        self.database.notify()

    async def lock_status(self) -> LockStatus:
        """Return the lock holder."""
        await self._query()
        owner = self.database.lock_owner
        return LockStatus() if owner is None else LockStatus(Holder(owner.instance, 1))

    async def pause(self, seconds: float, listening_seconds: float) -> bool:
        """Wait for a notification, and return whether there was one."""
        notified = False
        with suppress(TimeoutError):
            async with asyncio.timeout(listening_seconds):
                notified = await self.database.notified.wait()
        await self._step()
        return notified

    async def close(self) -> None:
        """End the connection."""
        if self.backend is not None:
            self.backend.client_gone()

    def _connect(self) -> Backend:
        backend = self.database.connect(self.process.name)
        self.process.backends.append(backend)
        if self.process.killed:
            backend.client_gone()
        return backend

    def _lock_backend(self, backend: Backend) -> Backend:
        return backend

    async def _apply(self, revision: str, listener: ProgressListener) -> None:
        backend = await self._query()
        backend.check_hold(self._lock_backend(backend))
        self._close_left_open()
        row = self._begin(revision)
        listener.started(revision)
        with self._running(revision):
            backend.enter(revision)
            await self._work(revision, row, backend)
            await self._query()
            if self.elector is not None:
                await self.elector.confirm()
            backend.check_hold(self._lock_backend(backend))
            backend.migrating = None
            self.database.commit(backend, revision, row.parents)
            # the answer to COMMIT may be lost
            await self._query()
        listener.finished(revision)

    @contextmanager
    def _running(self, revision: str) -> Iterator[None]:
        try:
            yield
        except DatabaseUnreachable as error:
            words = str(error)
            raise ConnectionLost(
                words, revision=revision, name=revision, upgrade=True, last_words=words, error_class="ConnectionError"
            ) from error

    def _failed(self, revision: str, error: str) -> None:
        row = self._begin(revision)
        row.outcome, row.error, row.finished_at = "failed", error, self.database.now()

    def _close_left_open(self) -> None:
        idempotent = self.release.code.idempotent
        for row in self.database.history:
            if row.outcome == "running" or (row.outcome == "half_applied" and row.revision in idempotent):
                row.outcome = "interrupted"

    def _begin(self, revision: str) -> Row:
        parents = self.release.code.parents[revision]
        row = Row(revision, parents, self.process.name, self.release.name, self.database.now())
        self.database.begin(row, self.release.code.idempotent)
        return row

    async def _work(self, revision: str, row: Row, backend: Backend) -> None:
        await backend.execute(self.release.seconds[revision] / 2)
        self._may_lose(revision, backend)
        await self._may_fail(revision, row, backend)
        if revision in self.release.commits_inside:
            self._commit_a_part(row)
        await backend.execute(self.release.seconds[revision] / 2)

    def _commit_a_part(self, row: Row) -> None:
        # the committed transaction contains the mark
        row.outcome = "half_applied"
        self.database.half_applied.add(row.revision)

    def _may_lose(self, revision: str, backend: Backend) -> None:
        if revision in self.release.loses:
            self.database.lose(backend, revision, crash=self.chance.random() < 0.5)
            backend.check()

    async def _may_fail(self, revision: str, row: Row, backend: Backend, outcome: str = "failed") -> None:
        if revision in self.release.fails:
            await self._query()
            backend.migrating = None
            row.outcome, row.error, row.finished_at = outcome, f"{revision} is broken", self.database.now()
            raise RevisionFailed(row.error, revision=revision)

    async def _query(self) -> Backend:
        await self._step()
        if self.backend is None:
            raise DatabaseUnreachable("not connected")
        self.backend.check()
        return self.backend

    async def _step(self) -> None:
        await asyncio.sleep(self.chance.expovariate(1 / 0.003))
        await self.process.running.wait()
        if self.process.killed:
            # the task of a killed process exists only in the simulation
            raise asyncio.CancelledError
