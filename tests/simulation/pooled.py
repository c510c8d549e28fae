"""The session behind a transaction pooler: one transaction has lock and revisions, and table locks are contended.

A rollback also releases the lock, so another instance may acquire it between two attempts.
"""

from __future__ import annotations

import asyncio

from api.migrations.core.protocols import MigrationRequest, ProgressListener
from api.migrations.errors import LockContended
from tests.simulation.database import Backend
from tests.simulation.session import Session

CONTENDED = 0.2
"""The probability that a revision does not acquire its table lock."""


class PooledSession(Session):
    """A session that commits all revisions in one transaction or none."""

    may_run_out_of_time = True  # each attempt starts with the first revision again

    async def run(self, request: MigrationRequest, listener: ProgressListener) -> None:
        """Apply the pending revisions and commit them together."""
        pending = self.release.code.pending(self.seen)
        listener.planned(pending, "Applied")
        backend = await self._query()
        for revision in pending:
            with self._running(revision):
                await self._run(backend, revision, listener)
        await self._query()
        backend.check_hold(backend)
        for revision in pending:
            self._begin(revision)
            self.database.commit(backend, revision, self.release.code.parents[revision])
        self._roll_back(backend)
        # the answer to COMMIT may be lost
        await self._query()
        for revision in pending:
            listener.finished(revision)

    async def unlock(self) -> None:
        """End the transaction, if it is still open, and notify."""
        self._roll_back(await self._query())
        self.database.notify()

    async def pause(self, seconds: float, listening_seconds: float) -> bool:
        """Wait without a connection and without notifications."""
        await self.close()
        await asyncio.sleep(seconds)
        await self._step()
        return True

    async def _run(self, backend: Backend, revision: str, listener: ProgressListener) -> None:
        backend.check_hold(backend)
        listener.started(revision)
        backend.enter(revision)
        if self.chance.random() < CONTENDED:
            await backend.execute(self.chance.choice([0.3, 0.6, 2.0]))
            self._roll_back(backend)
            error = LockContended(f"{revision} did not acquire its table lock", revision)
            error.pause_seconds = self.chance.uniform(0, 2)
            raise error
        await backend.execute(self.release.seconds[revision])
        self._may_lose(revision, backend)
        if revision in self.release.fails:
            self._roll_back(backend)
            await self._may_fail(revision, self._begin(revision), backend)

    def _roll_back(self, backend: Backend) -> None:
        backend.migrating = None
        if self.database.lock_owner is backend:
            self.database.lock_owner = None
