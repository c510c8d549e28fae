"""Elects a leader by a Lease of Kubernetes (`coordination.k8s.io/v1`), with the rules of client-go.

The Lease decides which instance tries; the database's own lock, if it has one, decides which instance runs.

Holding and acquiring
    The record in the Lease names the holder by an identity: the instance's name and a random part, new for each hold. A
    pod that restarts with the same host name is another holder, and waits. Each write carries the resourceVersion of
    the read that it is based on; a 409 says that another client was faster.
    A Lease is free if it does not exist, if it names no holder, or if its holder has not renewed it for as long as the
    record states. An instance judges that by the changes that it observes on its own monotonic clock. It compares
    `renewTime` with its earlier value only, so a wall clock that is wrong neither steals nor delays. The observation
    belongs to `LeaseElection`, because a session, and with it the elector, may be closed between two looks.

Losing
    A renewal is trusted for two thirds of the lease duration (10 s of 15 s) from its start, so a slow answer extends
    nothing. After that the hold is lost, whatever the API server says; the last third is for a COMMIT that is under
    way. A paused process notices both by its own clock when it resumes.
    The API server may be down for less than that without effect. If it is down for longer, the run ends with
    `HoldLost`, and another instance continues once the API answers and the hold has expired. After a 409 at a renewal,
    the Lease is read again: if it names this hold, only the answer to the last renewal was lost.
    A refusal (401, 403) is retried for 5 s before it is final: a restarted API server refuses everything at first, and
    a token file that was replaced is read again. At a renewal, a refusal is a failure like any other.

Not promised
    Fencing. A process may be paused between `confirm` and COMMIT for longer than a hold lasts. Then only the database's
    lock, and the loss of its session, prevent the COMMIT.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from ...core.clock import Clock, Deadline, SystemClock, jittered
from ...errors import AccessRefused, HoldLost, MigrationError
from ...settings import MigrationSettings
from .client import LeaseAddress, LeaseClient, StoredLease
from .cluster import cluster_config
from .lease import LeaseRecord, LeaseTimings, ObservedLease, Step, next_step
from .renewal import LeaseKeeper, LoopWatchdog

log = logging.getLogger(__name__)

T = TypeVar("T")

RANDOM_PART = re.compile(r"_[0-9a-f]{12}$")


@dataclass
class LeaseElection:
    """What the electors of one instance share: the Lease, the timings and what they observed."""

    instance: str
    address: LeaseAddress
    timings: LeaseTimings
    idle_limit_seconds: float = float("inf")
    """How long the migration thread may not respond before its hold is no longer renewed."""
    clock: Clock = field(default_factory=SystemClock)
    observed: ObservedLease = field(default_factory=ObservedLease)

    @classmethod
    def build(cls, settings: MigrationSettings, default_name: str) -> LeaseElection:
        """Build it from the settings and the environment, without network access.

        `default_name` is used if MIGRATION_LEASE_NAME is not set. Raises `ConfigurationError` if there is no cluster.
        """
        config, timings = cluster_config(), LeaseTimings(settings.lease_seconds)
        namespace, name = settings.lease_namespace or config.namespace, settings.lease_name or default_name
        address = LeaseAddress(config, namespace, name, timings.request_seconds, timings.lease_seconds)
        return cls(settings.instance, address, timings, settings.idle_seconds or float("inf"))

    def elector(self) -> LeaseElector:
        """Return a new elector, without I/O."""
        return LeaseElector(self)


class LeaseElector:
    """An `Elector` for one session after the other."""

    def __init__(self, election: LeaseElection) -> None:
        self._election = election
        self._identity = self._new_identity()
        self._client: LeaseClient | None = None
        self._keeper: LeaseKeeper | None = None
        self._may_be_holder = False
        """Whether the record may name this elector: it sent a request, and no answer said that it failed."""

    async def try_acquire(self) -> bool:
        """Read the Lease once, and acquire it if it is free."""
        if self._keeper is not None:
            return not self._keeper.lost.done()
        return await self._retry_refusal(self._try)

    async def confirm(self) -> None:
        """Check the hold by this instance's clock, and by the API server if it answers."""
        keeper = self._keeper
        if keeper is None:
            raise HoldLost(f"{self._election.address} is not held by this instance ({self._election.instance})")
        keeper.check(spare_seconds=0)
        reason = None
        # without an answer the clock is enough: no other instance can acquire a Lease that has not expired
        with suppress(MigrationError):
            reason = keeper.overtaken(await self._connected().get())
        if reason is not None:
            raise HoldLost(reason)
        keeper.check(spare_seconds=self._election.timings.retry_seconds)

    async def lost(self) -> str:
        """Return the reason once the hold is lost."""
        if self._keeper is None:
            await asyncio.Event().wait()
        assert self._keeper is not None
        return await asyncio.wrap_future(self._keeper.lost)

    async def ask(self) -> str | None:
        """Return the instance that the Lease names now."""
        return await self._retry_refusal(self._ask)

    async def rehearse(self) -> None:
        """Check by dry runs that this instance may read, create and update the Lease."""
        record = LeaseRecord.first(self._identity, self._election.timings.lease_seconds)
        await self._retry_refusal(lambda: self._connected().rehearse(record))

    async def leader(self) -> str | None:
        """Return the instance that the Lease names now, or named when it was last read."""
        with suppress(MigrationError):
            return await self._ask()
        return self._observed_instance()

    async def release(self) -> None:
        """Clear the holder if it is this elector, so that the next one need not wait."""
        keeper, self._keeper = self._keeper, None
        may_be_holder, self._may_be_holder = self._may_be_holder, False
        client, self._client = self._client, None
        identity, self._identity = self._identity, self._new_identity()
        address, timings = self._election.address, self._election.timings
        try:
            # a few requests, each with a limit of its own
            async with asyncio.timeout(timings.renew_deadline_seconds):
                if keeper is not None:
                    await keeper.stop()
                if may_be_holder:
                    client = client or address.client()
                    await self._retry_refusal(partial(_clear_holder, client, identity))
        except (MigrationError, TimeoutError) as error:
            failed, why = "Cannot release %s; the others wait %d s for it: %s", str(error) or "no answer in time"
            log.warning(failed, address, timings.lease_seconds, why, extra={"event": "lease_not_released"})
        finally:
            if client is not None:
                await client.close()

    async def _retry_refusal(self, attempt: Callable[[], Awaitable[T]]) -> T:
        clock, seconds = self._election.clock, self._election.timings.doubt_seconds
        deadline = Deadline.after(seconds, clock.monotonic())
        while True:
            try:
                return await attempt()
            except AccessRefused:
                if deadline.passed(clock.monotonic()):
                    raise
                # jittered: all waiters are refused at the same moment
                await clock.sleep(jittered(seconds / 10))

    async def _ask(self) -> str | None:
        election = self._election
        found = await self._connected().get()
        election.observed = election.observed.updated(found.record if found else None, election.clock.monotonic())
        return self._observed_instance()

    async def _try(self) -> bool:
        election = self._election
        found = await self._connected().get()
        started = election.clock.monotonic()
        step, election.observed = next_step(found.record if found else None, election.observed, started, self._identity)
        if step is Step.WAIT:
            return False
        self._may_be_holder = True
        stored = await self._write(step, found)
        if stored is None:
            self._may_be_holder = False
            return False
        election.observed = ObservedLease(stored.record, election.clock.monotonic())
        watchdog = LoopWatchdog(asyncio.get_running_loop(), election.clock, election.idle_limit_seconds)
        self._keeper = LeaseKeeper(election.address, stored, election.timings, election.clock, watchdog, started)
        self._keeper.start()
        return True

    async def _write(self, step: Step, found: StoredLease | None) -> StoredLease | None:
        client, seconds = self._connected(), self._election.timings.lease_seconds
        if found is None:
            return await client.create(LeaseRecord.first(self._identity, seconds))
        before = found.record
        record = before.kept(seconds) if step is Step.KEEP else before.taken(self._identity, seconds)
        return await client.replace(found, record)

    def _observed_instance(self) -> str | None:
        record = self._election.observed.record
        return RANDOM_PART.sub("", record.holder) or None if record else None

    def _connected(self) -> LeaseClient:
        if self._client is None:
            self._client = self._election.address.client()
        return self._client

    def _new_identity(self) -> str:
        return f"{self._election.instance}_{secrets.token_hex(6)}"


async def _clear_holder(client: LeaseClient, identity: str) -> None:
    found = await client.get()
    if found is not None and found.record.holder == identity:
        await client.replace(found, found.record.released())
