"""The Lease elector against an API server: the tests' own, or the real one that TEST_KUBECONFIG or KUBECONFIG names."""

import asyncio
import math
import os
import signal
import uuid
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from lightkube import ApiError, Client
from lightkube.resources.coordination_v1 import Lease

from api.migrations.electors.kubernetes.client import StoredLease
from api.migrations.electors.kubernetes.elector import LeaseElection, LeaseElector
from api.migrations.electors.kubernetes.lease import LeaseRecord
from api.migrations.settings import MigrationSettings
from tests.support.elector_contract import FOREVER_SECONDS, STRANGER, Arena, Elsewhere, LeaseContract
from tests.support.lease_api import lease_api
from tests.support.lease_process import candidate
from tests.support.pace import scaled
from tests.support.waiting import until, wait_until

GIVEN = os.environ.get("TEST_KUBECONFIG") or os.environ.get("KUBECONFIG")
LEASE_SECONDS = math.ceil(scaled(3))


class LeaseArena:
    """One Lease with a name of its own; what electors see of it they keep for themselves."""

    ttl_seconds = float(LEASE_SECONDS)

    def __init__(self) -> None:
        self.name = f"test-{uuid.uuid4().hex}"
        self.idle_seconds = scaled(2)

    def leases(self, instance: str = "test") -> LeaseElection:
        """What the electors of an instance share."""
        values = {"lease_name": self.name, "lease_seconds": LEASE_SECONDS, "idle_seconds": self.idle_seconds}
        return LeaseElection.build(MigrationSettings.load(instance=instance, **values), "unnamed")

    def make_elector(self, instance: str) -> LeaseElector:
        """A new elector of that instance."""
        return self.leases(instance).elector()

    async def take_away(self) -> None:
        """As `kubectl edit` does it: with the newest resourceVersion."""
        client = self.leases().address.client()

        async def written() -> bool:
            found = await client.get()
            assert found is not None
            return await client.replace(found, found.record.taken(STRANGER, 3600)) is not None

        await until(written, "robbed", seconds=FOREVER_SECONDS)
        await client.close()

    async def read(self) -> StoredLease:
        """The Lease as it is."""
        client = self.leases().address.client()
        found = await client.get()
        await client.close()
        assert found is not None
        return found

    def delete(self) -> None:
        """Leave nothing behind in somebody's cluster."""
        address = self.leases().address
        with closing(Client(address.config, namespace=address.namespace)) as client, suppress(ApiError):
            client.delete(Lease, self.name)

    async def record(self) -> LeaseRecord:
        """What it says."""
        return (await self.read()).record


@pytest.fixture
def _cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The API server of this test."""
    if GIVEN:
        monkeypatch.setenv("KUBECONFIG", GIVEN)
        yield
        return
    with lease_api(tmp_path) as api:
        monkeypatch.setenv("KUBECONFIG", str(api.kubeconfig))
        yield


@pytest.fixture
def lease(_cluster: None) -> Iterator[LeaseArena]:
    """A Lease that nobody has created yet."""
    made = LeaseArena()
    yield made
    made.delete()


@pytest.fixture
def arena(lease: LeaseArena) -> Arena:
    """The same, as the contract knows it."""
    return lease


class TestContract(LeaseContract):
    """What every elector does."""


async def test_what_the_record_says(lease: LeaseArena) -> None:
    """Its holder and how long it lasts; a renewal keeps since when and how many, a release ends it at once."""
    first, second = lease.make_elector("first"), lease.make_elector("second")
    assert await first.try_acquire()
    taken = await lease.record()
    assert taken.holder.startswith("first_")
    assert (taken.lease_seconds, taken.transitions, taken.acquired) == (LEASE_SECONDS, 0, taken.renewed)

    async def renewed() -> bool:
        return (await lease.record()).renewed != taken.renewed

    await until(renewed, "a renewal", seconds=FOREVER_SECONDS)
    now = await lease.record()
    assert (now.holder, now.acquired, now.transitions) == (taken.holder, taken.acquired, 0)
    await first.release()
    free = await lease.record()
    assert (free.holder, free.lease_seconds, free.transitions) == ("", 1, 0)
    assert await second.try_acquire()
    assert ((await lease.record()).transitions, await first.leader()) == (1, "second")
    await second.release()
    await first.release()


async def test_what_was_seen_outlives_the_elector(lease: LeaseArena) -> None:
    """A follower that makes a new elector for each look takes over all the same, and not before it is time."""
    client = lease.leases().address.client()
    assert await client.create(LeaseRecord.first("dead_0", LEASE_SECONDS))
    follower, looks = lease.leases("follower"), 0

    async def led() -> bool:
        nonlocal looks
        looks += 1
        elector = follower.elector()
        won = await elector.try_acquire()
        seen = follower.clock.monotonic()
        await elector.release()
        assert not won or seen - began >= LEASE_SECONDS
        return won

    began = follower.clock.monotonic()
    await until(led, "a look that takes it", seconds=FOREVER_SECONDS)
    assert looks > 3
    assert (await lease.record()).transitions == 1
    await client.close()


async def test_a_revision_that_computes_keeps_the_hold(lease: LeaseArena) -> None:
    """Its loop stands still for longer than a hold lasts, and less than it may: nobody else gets in."""
    lease.idle_seconds = 60
    second = lease.make_elector("second")
    with Elsewhere(lease.make_elector("first")).running() as first:
        assert await first.run(first.elector.try_acquire())
        first.pause()
        end = asyncio.get_running_loop().time() + 1.5 * LEASE_SECONDS

        async def outlasted() -> bool:
            assert not await second.try_acquire()
            return asyncio.get_running_loop().time() > end

        await until(outlasted, "the computation", seconds=FOREVER_SECONDS)
        first.resume()
        await first.run(first.elector.confirm())
    await second.release()


def test_a_stopped_process_is_succeeded(lease: LeaseArena) -> None:
    """SIGSTOP, a successor, SIGCONT: it finds out by its own clock, and gives back nothing that is not its own."""
    one = candidate("one", lease.name, LEASE_SECONDS)
    two = candidate("two", lease.name, LEASE_SECONDS)
    with one as first, two as second:
        wait_until(first.leads, "the first leads", seconds=FOREVER_SECONDS)
        assert not second.leads()
        first.process.send_signal(signal.SIGSTOP)
        wait_until(second.leads, "a successor", seconds=FOREVER_SECONDS)
        first.process.send_signal(signal.SIGCONT)
        assert first.ask("confirm").startswith("HoldLost: Lease ")
        assert first.ask("lost").startswith("Lease ")
        assert first.ask("release") == "None"
        assert second.ask("confirm") == "None"
        assert not first.leads()


def test_a_pod_that_restarts_is_somebody_else(lease: LeaseArena) -> None:
    """SIGKILL, and a process with the same host name: it waits like everybody, and takes over in time."""
    with candidate("pod-0", lease.name, LEASE_SECONDS) as first:
        wait_until(first.leads, "the first leads", seconds=FOREVER_SECONDS)
        before = asyncio.run(lease.record())
    with candidate("pod-0", lease.name, LEASE_SECONDS) as again:
        assert not again.leads()
        wait_until(again.leads, "it leads again", seconds=FOREVER_SECONDS)
        after = asyncio.run(lease.record())
    assert (after.holder != before.holder, after.transitions) == (True, before.transitions + 1)


def test_of_two_that_race_one_leads(lease: LeaseArena) -> None:
    """Twenty times at the same moment, in two processes; the winner confirms, the loser cannot."""
    one = candidate("one", lease.name, LEASE_SECONDS)
    two = candidate("two", lease.name, LEASE_SECONDS)
    with one as first, two as second:
        for _ in range(20):
            for each in (first, second):
                each.say("try")
            won = [first.hear(), second.hear()]
            assert won.count("True") == 1, won
            winner, loser = (first, second) if won[0] == "True" else (second, first)
            assert winner.ask("confirm") == "None"
            assert loser.ask("confirm").startswith("HoldLost")
            assert winner.ask("release") == "None"
