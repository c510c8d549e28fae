"""Leader election over a Lease of Kubernetes (`coordination.k8s.io/v1`), by the rules of client-go.

The Lease decides who tries; the database's own lock, where it has one, decides who runs.

Who holds it
    Whoever the record names. Identities are an instance's name and a random part, one for each hold: a pod that
    restarts under the same host name is somebody else, and waits like everybody.

Who takes it
    Whoever writes first: each write carries the resourceVersion that it was decided on, and a 409 says that somebody
    else was faster. A Lease is free when there is none, when it names nobody, or when its holder has renewed nothing
    for as long as it said its hold lasts. That is judged by the change that we see ourselves, on our monotonic clock:
    `renewTime` is compared with what it was before and never with the time, so a wall clock that is an hour wrong
    neither steals nor waits. What was seen outlives the elector (`LeaseElection`), for a session may be closed between
    looks.

How long it is ours
    From the moment a renewal *began* for two thirds of what others wait (10 s of 15 s). A renewal that succeeds late
    stretches nothing. When that time is over the hold is lost, whatever the API server thinks; the third that is left
    is for a COMMIT that is under way. A paused process finds both out by its own clock when it wakes up.

When the API refuses
    A refusal (401, 403) is believed once it has lasted for 5 s, asked again meanwhile: a restarted API server refuses
    everything for a moment after it listens, and a token file that was replaced is read again. A refused renewal is one
    that failed, as any other.

When the API is away
    Shorter than that, and nothing happens. Longer, and the run ends with `HoldLost`; somebody else goes on once the
    API answers and the hold has run out. A 409 at a renewal is read again: if the record names us, only the answer to
    our last request was lost.

What is not promised
    Fencing. A process may be paused between `confirm` and COMMIT for longer than a hold lasts: then only the
    database's lock, and the loss of its session, are in the way.
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
from .lease import LeaseRecord, LeaseTimings, ObservedLease, Step, decide
from .renewal import LeaseKeeper, LoopWatchdog

log = logging.getLogger(__name__)

T = TypeVar("T")

RANDOM_PART = re.compile(r"_[0-9a-f]{12}$")


@dataclass
class LeaseElection:
    """What all electors of one instance share: whom to ask, how fast, and what was seen of the Lease so far."""

    instance: str
    address: LeaseAddress
    tempo: LeaseTimings
    patience_seconds: float = float("inf")
    """How long the migration may do nothing at all before its hold is let go."""
    clock: Clock = field(default_factory=SystemClock)
    sighting: ObservedLease = field(default_factory=ObservedLease)

    @classmethod
    def build(cls, settings: MigrationSettings, default_name: str) -> LeaseElection:
        """From the settings and the environment; touches no network.

        Args:
            settings: those of the instance.
            default_name: of the Lease, where MIGRATION_LEASE_NAME does not say it.

        Raises:
            ConfigurationError: there is no Kubernetes API server to ask.
        """
        config, tempo = cluster_config(), LeaseTimings(settings.lease_seconds)
        namespace = settings.lease_namespace or config.namespace
        name = settings.lease_name or default_name
        address = LeaseAddress(config, namespace, name, tempo.request_seconds, tempo.lease_seconds)
        return cls(settings.instance, address, tempo, settings.idle_seconds or float("inf"))

    def elector(self) -> LeaseElector:
        """A new elector; does no I/O."""
        return LeaseElector(self)


class LeaseElector:
    """An `Elector` for one session after the other."""

    def __init__(self, leases: LeaseElection) -> None:
        self._leases = leases
        self._identity = self._new_identity()
        self._client: LeaseClient | None = None
        self._keeper: LeaseKeeper | None = None
        self._claimed = False
        """Whether the record may name us: a request was sent, and no answer said that it failed."""

    async def try_acquire(self) -> bool:
        """Look once, and take the Lease if it is free."""
        if self._keeper is not None:
            return not self._keeper.lost.done()
        return await self._believed(self._try)

    async def confirm(self) -> None:
        """Make sure of the hold: by our clock, and by the API server where it answers."""
        keeper = self._keeper
        if keeper is None:
            raise HoldLost(f"{self._leases.address} is not held by this instance ({self._leases.instance})")
        keeper.check(spare_seconds=0)
        try:
            reason = keeper.overtaken(await self._connected().get())
        except MigrationError:
            # it does not answer: what we know by the clock is enough, for nobody can have taken what is not over
            reason = None
        if reason is not None:
            raise HoldLost(reason)
        keeper.check(spare_seconds=self._leases.tempo.retry_seconds)

    async def lost(self) -> str:
        """Return once the hold is lost, with the reason."""
        if self._keeper is None:
            await asyncio.Event().wait()
        assert self._keeper is not None
        return await asyncio.wrap_future(self._keeper.lost)

    async def ask(self) -> str | None:
        """The instance that the Lease names now."""
        return await self._believed(self._ask)

    async def rehearse(self) -> None:
        """Make sure that the Lease may be read, created and updated, by dry runs."""
        record = LeaseRecord.first(self._identity, self._leases.tempo.lease_seconds)
        await self._believed(lambda: self._connected().rehearse(record))

    async def leader(self) -> str | None:
        """The instance that the Lease names now, or named when it was last seen."""
        with suppress(MigrationError):
            return await self._ask()
        return self._named()

    async def release(self) -> None:
        """Clear the holder if it is us, so that the next one need not wait."""
        keeper, self._keeper = self._keeper, None
        claimed, self._claimed = self._claimed, False
        client, self._client = self._client, None
        identity, self._identity = self._identity, self._new_identity()
        try:
            # a few requests, each with a limit of its own
            async with asyncio.timeout(self._leases.tempo.renew_deadline_seconds):
                if keeper is not None:
                    await keeper.stop()
                if claimed:
                    client = client or self._leases.address.client()
                    await self._believed(partial(self._give_back, client, identity))
        except (MigrationError, TimeoutError) as error:
            seconds = self._leases.tempo.lease_seconds
            what = "%s was not given back (%s): the others wait for %d s"
            fields = {"event": "lease_not_released"}
            log.warning(what, self._leases.address, str(error) or "no answer in time", seconds, extra=fields)
        finally:
            if client is not None:
                await client.close()

    async def _believed(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """The result of `attempt`, which is repeated while it is refused, until the refusal has lasted."""
        clock, seconds = self._leases.clock, self._leases.tempo.doubt_seconds
        deadline = Deadline.after(seconds, clock.monotonic())
        while True:
            try:
                return await attempt()
            except AccessRefused:
                now = clock.monotonic()
                if deadline.passed(now):
                    raise
                # all who wait were refused in the same moment
                await clock.sleep(jittered(seconds / 10))

    async def _ask(self) -> str | None:
        leases = self._leases
        found = await self._connected().get()
        leases.sighting = leases.sighting.updated(found.record if found else None, leases.clock.monotonic())
        return self._named()

    async def _try(self) -> bool:
        found = await self._connected().get()
        started = self._leases.clock.monotonic()
        step, self._leases.sighting = decide(
            found.record if found else None, self._leases.sighting, started, self._identity
        )
        if step is Step.WAIT:
            return False
        self._claimed = True
        taken = await self._take(step, found)
        if taken is None:
            self._claimed = False
            return False
        self._leases.sighting = ObservedLease(taken.record, self._leases.clock.monotonic())
        self._keep(taken, started)
        return True

    async def _take(self, step: Step, found: StoredLease | None) -> StoredLease | None:
        client, seconds = self._connected(), self._leases.tempo.lease_seconds
        if found is None:
            return await client.create(LeaseRecord.first(self._identity, seconds))
        before = found.record
        record = before.kept(seconds) if step is Step.KEEP else before.taken(self._identity, seconds)
        return await client.replace(found, record)

    def _keep(self, taken: StoredLease, started: float) -> None:

        leases = self._leases
        pulse = LoopWatchdog(asyncio.get_running_loop(), leases.clock, leases.patience_seconds)
        self._keeper = LeaseKeeper(leases.address, taken, leases.tempo, leases.clock, pulse, started)
        self._keeper.start()

    async def _give_back(self, client: LeaseClient, identity: str) -> None:
        found = await client.get()
        if found is not None and found.record.holder == identity:
            await client.replace(found, found.record.released())

    def _named(self) -> str | None:
        record = self._leases.sighting.record
        return RANDOM_PART.sub("", record.holder) or None if record else None

    def _connected(self) -> LeaseClient:
        if self._client is None:
            self._client = self._leases.address.client()
        return self._client

    def _new_identity(self) -> str:
        return f"{self._leases.instance}_{secrets.token_hex(6)}"
