"""A session behind an elector: the elector decides who tries, the database's own lock who runs.

Without the elector's hold the database's lock is not even asked for; with it, it still has to be free. While another
session holds that lock, the hold is not asked for either: it would be of no use, and a fleet that acquires and releases
it at each look is load for what elects. The run asks the elector inside each revision's transaction, before COMMIT, and
is cancelled when the hold is lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

from ..errors import DatabaseUnreachable, ElectorUnreachable, HoldLost
from .protocols import Elector, MigrationRequest, MigrationSession, ProgressListener, SchemaStore
from .status import Holder, LockStatus


class ElectedSession:
    """A `MigrationSession` whose lock is taken only with the elector's hold."""

    def __init__(self, session: MigrationSession, elector: Elector) -> None:
        self._session = session
        self._elector = elector
        self._unreachable: ElectorUnreachable | None = None

    @property
    def store(self) -> SchemaStore:
        """The tables; the elector is not asked."""
        return self._session.store

    async def open(self) -> None:
        """Connect to the database."""
        await self._session.open()

    async def try_lock(self) -> bool:
        """Take both, or neither. While the elector does not answer nobody may try, but somebody may still finish."""
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

    async def back_up_if_requested(self, request: MigrationRequest) -> None:
        """Secure what the order might lose, while the hold lasts."""
        await self._while_held(self._session.back_up_if_requested(request))

    async def run(self, request: MigrationRequest, listener: ProgressListener) -> None:
        """Run the order while the hold lasts.

        Raises:
            HoldLost: it was lost meanwhile; the revision that was under way is rolled back.
        """
        await self._while_held(self._session.run(request, listener))

    async def unlock(self) -> None:
        """Give both back, the database's lock first: who is elected next finds it free."""
        try:
            await self._session.unlock()
        finally:
            await self._elector.release()

    async def lock_status(self) -> LockStatus:
        """Who holds the database's lock, or else who is elected; why nobody may try."""
        seen = await self._session.lock_status()
        if self._unreachable is not None:
            return replace(seen, problem=str(self._unreachable))
        leader = await self._elector.leader() if seen.holder is None else None
        return replace(seen, holder=Holder(leader)) if leader else seen

    async def pause(self, seconds: float) -> None:
        """Wait."""
        await self._session.pause(seconds)

    async def close(self) -> None:
        """Leave nothing behind."""
        try:
            await self._session.close()
        finally:
            await self._elector.release()

    async def _elected(self) -> bool:
        if not await self._session.lock_is_held():
            return await self._elector.try_acquire()
        # how long a Lease has not changed is known only to those who look at it
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
                _refuse_stopped(task, lost.result())
            task.result()
        finally:
            for one in (task, lost):
                one.cancel()
            # whatever they ended with is looked at, or asyncio would write it into the log
            await asyncio.gather(task, lost, return_exceptions=True)


def _refuse_stopped(task: asyncio.Task[None], reason: str) -> None:
    # what was done before it could be stopped is done, and an error of its own stays its own
    error = None if task.cancelled() else task.exception()
    if task.cancelled() or isinstance(error, DatabaseUnreachable):
        raise HoldLost(f"{reason}; the run was stopped, and what was not committed is rolled back") from error
