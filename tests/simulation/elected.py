"""An elector whose hold expires, on a service that sometimes does not answer."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress

from api.migrations.errors import ElectorUnreachable, HoldLost
from tests.simulation.session import Process

TTL_SECONDS = 15.0
MARGIN_SECONDS = 1.0


class Holds:
    """The service: one hold, with its end by the service's own clock."""

    def __init__(self) -> None:
        self.silent = False
        self.holder: LeasedElector | None = None
        self.ends_at = 0.0

    def take(self, elector: LeasedElector) -> bool:
        """Acquire or renew the hold for `elector` if it is free or its own; return whether it has the hold."""
        if self.silent:
            raise ElectorUnreachable("no answer of the election")
        now = asyncio.get_running_loop().time()
        if self.holder is not elector and self.holder is not None and now < self.ends_at:
            return False
        self.holder, self.ends_at = elector, now + TTL_SECONDS
        return True


class LeasedElector:
    """The elector of one process; if the process is stopped, it may continue without its hold."""

    def __init__(self, holds: Holds, process: Process, chance: random.Random) -> None:
        self.holds = holds
        self.process = process
        self.chance = chance
        self._trusted_until = 0.0
        self._reason: asyncio.Future[str] | None = None
        self._renewing: asyncio.Task[None] | None = None

    async def try_acquire(self) -> bool:
        """Lead if there is no leader."""
        if not await self._take():
            return False
        self._reason = asyncio.get_running_loop().create_future()
        self._renewing = asyncio.create_task(self._renew())
        return True

    async def confirm(self) -> None:
        """Check the hold; without an answer it is lost once its time is over."""
        with suppress(ElectorUnreachable):
            if self._reason is not None and not self._reason.done() and await self._take():
                return
        if self._reason is None or self._reason.done() or self._now() >= self._trusted_until:
            self._lose("the hold is not ours any more")
            raise HoldLost("the hold is not ours any more")

    async def lost(self) -> str:
        """Return the reason once the hold is lost."""
        assert self._reason is not None
        return await asyncio.shield(self._reason)

    async def ask(self) -> str | None:
        """Return the leader."""
        return await self.leader()

    async def rehearse(self) -> None:
        """Do nothing."""

    async def leader(self) -> str | None:
        """Return the leader."""
        return self.holds.holder.process.name if self.holds.holder else None

    async def release(self) -> None:
        """Release the hold if the service answers."""
        renewing, self._renewing, self._reason = self._renewing, None, None
        if renewing is not None:
            renewing.cancel()
        if self.holds.holder is self and not self.holds.silent and not self.process.killed:
            self.holds.holder = None

    async def _take(self) -> bool:
        started = self._now()
        await asyncio.sleep(self.chance.expovariate(1 / 0.003))
        await self.process.running.wait()
        if self.process.killed:
            raise asyncio.CancelledError
        taken = self.holds.take(self)
        if taken:
            self._trusted_until = started + TTL_SECONDS - MARGIN_SECONDS
        return taken

    async def _renew(self) -> None:
        while self._now() < self._trusted_until:
            await asyncio.sleep(TTL_SECONDS / 4)
            with suppress(ElectorUnreachable):
                if self._reason is None or self._reason.done() or not await self._take():
                    break
        self._lose("the hold could not be renewed")

    def _lose(self, reason: str) -> None:
        if self._reason is not None and not self._reason.done():
            self._reason.set_result(reason)

    def _now(self) -> float:
        return asyncio.get_running_loop().time()
