"""The session on a database whose DDL commits by itself: an interrupted revision stays half applied.

A statement continues without its client and keeps the lock until its end, and waiters are not notified.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from api.migrations.core.protocols import MigrationRequest, ProgressListener
from api.migrations.errors import DatabaseUnreachable
from tests.simulation.database import Backend, Row
from tests.simulation.session import Session


class SelfCommittingSession(Session):
    """A session in which each revision consists of two statements: rows or DDL, then DDL."""

    async def run(self, request: MigrationRequest, listener: ProgressListener) -> None:
        """Apply the pending revisions; a cancellation also ends the statement in the server."""
        try:
            await super().run(request, listener)
        except asyncio.CancelledError:
            await self._end_statement()
            raise

    async def pause(self, seconds: float, listening_seconds: float) -> bool:
        """Wait without a connection and without notifications."""
        await self.close()
        await asyncio.sleep(seconds)
        await self._step()
        return True

    def _connect(self) -> Backend:
        backend = super()._connect()
        backend.check_interval_seconds = None
        return backend

    async def _work(self, revision: str, row: Row, backend: Backend) -> None:
        seconds = self.release.seconds[revision] / 2
        ddl_first, first_fails = self.chance.random() < 0.5, self.chance.random() < 0.5
        if ddl_first:
            await self._query()
            self._commit_a_part(row)
        await backend.execute(seconds)
        self._may_lose(revision, backend)
        if first_fails and revision in self.release.fails:
            # DDL is atomic, and rows are rolled back
            self.database.half_applied.discard(revision)
            await self._may_fail(revision, row, backend)
        await self._query()
        self._commit_a_part(row)
        await backend.execute(seconds)
        await self._may_fail(revision, row, backend, "half_applied")

    async def _end_statement(self) -> None:
        backend = self.backend
        with suppress(DatabaseUnreachable):
            beside = self._connect()
            try:
                await self._step()
                if backend is not None:
                    backend.die()
            finally:
                beside.client_gone()
