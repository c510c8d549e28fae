"""Renews one hold of a Lease, and reports its loss.

A thread of its own renews, because a revision that computes in Python blocks the migration thread's loop for longer
than a hold lasts. While that loop hangs, it renews for MIGRATION_IDLE_SECONDS at most, or the others would wait for it.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress

from ...core.clock import Clock
from ...errors import ElectorUnreachable, HoldLost, MigrationError
from ...runtime.thread import MigrationThread
from ..trust_window import TrustWindow
from .client import LeaseAddress, LeaseClient, StoredLease
from .lease import LeaseTimings


class LoopWatchdog:
    """Observes from another thread when the loop that uses the hold was last active."""

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Clock, idle_limit_seconds: float) -> None:
        self.idle_limit_seconds = idle_limit_seconds
        self._loop = loop
        self._clock = clock
        self._active_at = clock.monotonic()

    def stopped(self) -> bool:
        """Whether the loop has not answered for longer than the limit; asks it for another answer."""
        try:
            self._loop.call_soon_threadsafe(self._record_activity)
        except RuntimeError:  # the loop was closed without a release
            return True
        return self._clock.monotonic() - self._active_at > self.idle_limit_seconds

    def _record_activity(self) -> None:
        self._active_at = self._clock.monotonic()


class LeaseKeeper:
    """The hold that `stored` shows, acquired by a request that began at `started`, until it is stopped or lost."""

    def __init__(
        self,
        address: LeaseAddress,
        stored: StoredLease,
        timings: LeaseTimings,
        clock: Clock,
        watchdog: LoopWatchdog,
        started: float,
    ) -> None:
        self.lost: Future[str] = Future()
        # running: a waiter that is cancelled must not cancel it for the others
        self.lost.set_running_or_notify_cancel()
        self._address = address
        self._stored = stored
        self._timings = timings
        self._clock = clock
        self._watchdog = watchdog
        self._trust_window = TrustWindow(timings.renew_deadline_seconds)
        self._trust_window.granted(started)
        self._failures: list[str] = []
        """Of the renewals since the last success, each once."""
        self._stopping = False
        self._thread = MigrationThread(self._run, "lease")

    def start(self) -> None:
        """Start the renewals."""
        self._thread.start()

    async def stop(self) -> None:
        """Stop the renewals, even if one drops the cancellation; returns when no request is under way."""
        self._stopping = True
        self._thread.cancel()
        ended = asyncio.wrap_future(self._thread.outcome)
        await asyncio.wait({ended})
        # retrieved, or asyncio would log the cancellation of a thread that had not begun
        ended.exception()

    def check(self, *, spare_seconds: float) -> None:
        """Raise `HoldLost` unless the hold is trusted for another `spare_seconds`."""
        if self.lost.done():
            raise HoldLost(self.lost.result())
        left = self._trust_window.left(self._clock.monotonic())
        if not left:
            raise HoldLost(self._expired())
        if left < spare_seconds:
            raise HoldLost(f"{self._address} is trusted for only {left:.1f} s more: {self._why()}")

    def overtaken(self, found: StoredLease | None) -> str | None:
        """Return why this instance lost the Lease that was `found`, and record the loss; None if it still holds it."""
        identity = self._stored.record.holder
        if found is not None and found.record.holder == identity:
            return None
        if found is None:
            return self._lose(f"{self._address} was deleted; this instance ({identity}) no longer holds it")
        again = "was deleted and created again, and " if found.uid != self._stored.uid else ""
        now = f"is now held by {found.record.holder}" if found.record.holder else "names no holder any more"
        return self._lose(f"{self._address} {again}{now}; this instance ({identity}) no longer holds it")

    async def _run(self) -> None:
        try:
            with suppress(asyncio.CancelledError):
                await self._renew_until_lost()
        except Exception as error:
            self._lose(f"the renewal of {self._address} failed: {type(error).__name__}")

    async def _renew_until_lost(self) -> None:
        client, pause = self._address.client(), self._timings.pause()
        try:
            while not self.lost.done() and not self._stopping:
                await self._clock.sleep(min(pause, self._trust_window.left(self._clock.monotonic())))
                pause = await self._attempt(client)
        finally:
            await client.close()

    async def _attempt(self, client: LeaseClient) -> float:
        """Renew once; returns the pause before the next attempt."""
        started = self._clock.monotonic()
        left = self._trust_window.left(started)
        if not left:
            self._lose(self._expired())
        elif self._watchdog.stopped():
            idle = f"the migration thread did not respond for {self._watchdog.idle_limit_seconds:g} s"
            self._lose(f"{idle} (MIGRATION_IDLE_SECONDS), so this instance stopped renewing {self._address}")
        else:
            try:
                async with asyncio.timeout(left):
                    await self._renew(client)
            except (MigrationError, TimeoutError) as error:
                self._record_failure(error)
                return self._timings.retry_seconds
            self._failures.clear()
            self._trust_window.granted(started)
        return self._timings.pause()

    async def _renew(self, client: LeaseClient) -> None:
        renewed = await client.replace(self._stored, self._stored.record.kept(self._timings.lease_seconds))
        if renewed is not None:
            self._stored = renewed
            return
        # the answer to the last renewal may have been lost, so only the holder in the record decides
        found = await client.get()
        reason = self.overtaken(found)
        if reason is not None or found is None:
            raise HoldLost(reason or "")
        self._stored = found
        raise ElectorUnreachable(f"another client changed {self._address} during the renewal")

    def _expired(self) -> str:
        seconds = self._timings.renew_deadline_seconds
        return f"{self._address} was not renewed within {seconds:g} s: {self._why()}"

    def _why(self) -> str:
        failures = "; then ".join(self._failures)
        return f"each renewal failed: {failures}" if failures else "this process was paused"

    def _record_failure(self, error: MigrationError | TimeoutError) -> None:
        # the end of the hold cuts the last renewal short: an earlier answer says more
        failure = str(error) or (None if self._failures else "no answer")
        if failure and failure not in self._failures:
            self._failures.append(failure)

    def _lose(self, reason: str) -> str:
        with suppress(InvalidStateError):  # the first reason stays
            self.lost.set_result(reason)
        return reason
