"""A session behind an elector: the elector decides which instance tries, the database's own lock which one runs.

The session tries the database's lock only with the elector's hold. While another session has that lock, it does not
try to acquire the hold, which would only load the elector. The run confirms the hold inside each revision's
transaction, before COMMIT, and is cancelled when the hold is lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

from ..errors import DatabaseUnreachable, ElectorUnreachable, HoldLost, OldInstances
from .protocols import Elector, MigrationRequest, MigrationSession, ProgressListener, SchemaStore
from .status import Holder, LockStatus


class ElectedSession:
    """A `MigrationSession` that tries the lock only with the elector's hold."""

    def __init__(self, session: MigrationSession, elector: Elector) -> None:
        self._session = session
        self._elector = elector
        self._unreachable: ElectorUnreachable | None = None

    @property
    def store(self) -> SchemaStore:
        """The tables."""
        return self._session.store

    async def open(self) -> None:
        """Connect to the database."""
        await self._session.open()

    async def try_lock(self) -> bool:
        """Acquire both, or neither; while the elector does not answer, no instance acquires the lock."""
        try:
            elected = await self._elected()
            self._unreachable = None
        except ElectorUnreachable as error:
            elected, self._unreachable = False, error
        if not elected:
            return False
        held = False
        try:
            held = await self._session.try_lock()
        finally:
            if not held:
                await self._elector.release()
        return held

    async def lock_is_held(self) -> bool:
        """Whether any session holds the database's lock."""
        return await self._session.lock_is_held()

    async def old_instances(self, request: MigrationRequest) -> OldInstances | None:
        """Return the error if instances of older builds are connected."""
        return await self._session.old_instances(request)

    async def back_up_if_requested(self, request: MigrationRequest) -> None:
        """Make the backup while the hold lasts."""
        await self._while_held(self._session.back_up_if_requested(request))

    async def run(self, request: MigrationRequest, listener: ProgressListener) -> None:
        """Run the request while the hold lasts.

        Raises:
            HoldLost: the hold was lost; the revision that was running is rolled back.
        """
        await self._while_held(self._session.run(request, listener))

    async def unlock(self) -> None:
        """Release both, the database's lock first, so that the next elected instance finds it free."""
        try:
            await self._session.unlock()
        finally:
            await self._elector.release()

    async def lock_status(self) -> LockStatus:
        """Return the lock holder, or the elected instance, and why no instance can acquire the lock."""
        seen = await self._session.lock_status()
        if self._unreachable is not None:
            return replace(seen, problem=str(self._unreachable))
        leader = await self._elector.leader() if seen.holder is None else None
        return replace(seen, holder=Holder(leader)) if leader else seen

    async def pause(self, seconds: float, listening_seconds: float) -> bool:
        """Wait as the session does."""
        return await self._session.pause(seconds, listening_seconds)

    async def close(self) -> None:
        """Close the session and release the hold."""
        try:
            await self._session.close()
        finally:
            await self._elector.release()

    async def _elected(self) -> bool:
        if not await self._session.lock_is_held():
            return await self._elector.try_acquire()
        # a Lease expires by the changes that an instance has observed, so it must read it
        await self._elector.ask()
        return False

    async def _while_held(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name="elected-run")
        lost = asyncio.ensure_future(self._elector.lost())
        try:
            await asyncio.wait({task, lost}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                task.cancel()
                await asyncio.wait({task})
                # a run that finished, or failed by itself, before it was cancelled keeps its result
                error = None if task.cancelled() else task.exception()
                if task.cancelled() or isinstance(error, DatabaseUnreachable):
                    raise HoldLost(
                        f"{lost.result()}; the run was cancelled, and its uncommitted work is rolled back"
                    ) from error
            task.result()
        finally:
            task.cancel()
            lost.cancel()
            # retrieves their exceptions, which asyncio would log otherwise
            await asyncio.gather(task, lost, return_exceptions=True)
