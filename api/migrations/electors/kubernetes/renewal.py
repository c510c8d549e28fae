"""Keeps one hold of a Lease alive, and says when it is lost.

In a thread of its own, because a revision that computes in Python stops the migration thread's loop for longer than a
hold lasts. For as long as MIGRATION_IDLE_SECONDS, not for ever: a loop that hangs must not keep the others out.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress

from ...core.clock import Clock
from ...errors import ElectorUnreachable, HoldLost, MigrationError
from ...runtime.thread import MigrationThread
from .client import LeaseAddress, LeaseClient, StoredLease
from .lease import LeaseTimings


class LoopWatchdog:
    """When the loop that uses the hold last did anything, as seen from another thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Clock, patience_seconds: float) -> None:
        self.patience_seconds = patience_seconds
        self._loop = loop
        self._clock = clock
        self._at = clock.monotonic()

    def stopped(self) -> bool:
        """Whether the loop has been busy with one thing for longer than it may; asks it for another beat."""
        try:
            self._loop.call_soon_threadsafe(self._beat)
        except RuntimeError:  # the loop is closed: whoever used it has gone without a release
            return True
        return self._clock.monotonic() - self._at > self.patience_seconds

    def _beat(self) -> None:
        self._at = self._clock.monotonic()


class LeaseKeeper:
    """The hold that `stored` shows, from the start of the request that took it (`started`) until stop or loss."""

    def __init__(
        self,
        address: LeaseAddress,
        stored: StoredLease,
        tempo: LeaseTimings,
        clock: Clock,
        pulse: LoopWatchdog,
        started: float,
    ) -> None:
        self.lost: Future[str] = Future()
        # whoever stops waiting for it must not cancel it for the others
        self.lost.set_running_or_notify_cancel()
        self._address = address
        self._stored = stored
        self._tempo = tempo
        self._clock = clock
        self._pulse = pulse
        self._trusted_until = started + tempo.renew_deadline_seconds
        self._troubles: list[str] = []
        """What the renewals since the last success ended with, each once."""
        self._stopping = False
        self._thread = MigrationThread(self._keep, "lease")

    def start(self) -> None:
        """Renew from now on."""
        self._thread.start()

    async def stop(self) -> None:
        """Renew no more, also where what is awaited drops the cancellation; returns when no request is under way."""
        self._stopping = True
        self._thread.cancel()
        ended = asyncio.wrap_future(self._thread.outcome)
        await asyncio.wait({ended})
        # a thread that was cancelled before it began ends with that, and nobody else asks
        ended.exception()

    def check(self, *, spare_seconds: float) -> None:
        """Raise `HoldLost` unless the hold can be trusted for another `spare_seconds`."""
        if self.lost.done():
            raise HoldLost(self.lost.result())
        left = self._trusted_until - self._clock.monotonic()
        if left < spare_seconds:
            raise HoldLost(self._outdated() if left <= 0 else f"{self._address} is about to be lost: {self._why()}")

    def overtaken(self, found: StoredLease | None) -> str | None:
        """Why the Lease as it was `found` is not ours any more; None if it is. A loss is remembered."""
        identity = self._stored.record.holder
        if found is not None and found.record.holder == identity:
            return None
        if found is None:
            return self._lose(f"{self._address} was deleted; this instance ({identity}) no longer holds it")
        again = "was deleted and created again, and " if found.uid != self._stored.uid else ""
        who = f"is now held by {found.record.holder}" if found.record.holder else "names no holder any more"
        return self._lose(f"{self._address} {again}{who}; this instance ({identity}) no longer holds it")

    async def _keep(self) -> None:
        try:
            with suppress(asyncio.CancelledError):
                await self._renew_until_lost()
        except Exception as error:
            self._lose(f"the renewal of {self._address} failed: {type(error).__name__}")

    async def _renew_until_lost(self) -> None:
        client, pause = self._address.client(), self._tempo.pause()
        try:
            while not self.lost.done() and not self._stopping:
                left = self._trusted_until - self._clock.monotonic()
                await self._clock.sleep(max(0.0, min(pause, left)))
                pause = await self._attempt(client)
        finally:
            await client.close()

    async def _attempt(self, client: LeaseClient) -> float:
        """Renew once; returns for how long to wait then."""
        started = self._clock.monotonic()
        if started >= self._trusted_until:
            self._lose(self._outdated())
        elif self._pulse.stopped():
            self._lose(f"the migration did nothing for {self._pulse.patience_seconds:g} s: {self._address} is let go")
        else:
            try:
                async with asyncio.timeout(self._trusted_until - started):
                    await self._renew(client)
            except (MigrationError, TimeoutError) as error:
                self._remember(error)
                return self._tempo.retry_seconds
            self._troubles.clear()
            # by when it began: an answer that took long proves nothing about the time since
            self._trusted_until = started + self._tempo.renew_deadline_seconds
        return self._tempo.pause()

    async def _renew(self, client: LeaseClient) -> None:
        renewed = await client.replace(self._stored, self._stored.record.kept(self._tempo.lease_seconds))
        if renewed is not None:
            self._stored = renewed
            return
        # the answer to our own last renewal may have been lost, so it is the holder who tells
        found = await client.get()
        reason = self.overtaken(found)
        if reason is not None or found is None:
            raise HoldLost(reason or "")
        self._stored = found
        raise ElectorUnreachable(f"{self._address} was changed meanwhile")

    def _outdated(self) -> str:
        seconds = self._tempo.renew_deadline_seconds
        return f"{self._address} was not renewed within {seconds:g} s: {self._why()}"

    def _why(self) -> str:
        if not self._troubles:
            return "this process stood still"
        return f"each renewal failed: {'; then '.join(self._troubles)}"

    def _remember(self, error: MigrationError | TimeoutError) -> None:
        # the last renewal is cut short when the hold ends: what was answered until then says more
        told = str(error) or (None if self._troubles else "no answer")
        if told and told not in self._troubles:
            self._troubles.append(told)

    def _lose(self, reason: str) -> str:
        with suppress(InvalidStateError):  # it was lost before, for a better reason
            self.lost.set_result(reason)
        return reason
