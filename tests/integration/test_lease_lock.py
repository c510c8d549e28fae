"""The Lease elector against the tests' API server, or the real one that TEST_KUBECONFIG or KUBECONFIG names."""

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
    """A Lease with a name of its own; each elector keeps its own view of it."""

    ttl_seconds = float(LEASE_SECONDS)

    def __init__(self) -> None:
        self.name = f"test-{uuid.uuid4().hex}"
        self.idle_seconds = scaled(2)

    def leases(self, instance: str = "test") -> LeaseElection:
        """Return what the electors of one instance share."""
        values = {"lease_name": self.name, "lease_seconds": LEASE_SECONDS, "idle_seconds": self.idle_seconds}
        return LeaseElection.build(MigrationSettings.load(instance=instance, **values), "unnamed")

    def make_elector(self, instance: str) -> LeaseElector:
        """Return a new elector of that instance."""
        return self.leases(instance).elector()

    async def take_away(self) -> None:
        """Let another client take the Lease, with the newest resourceVersion, like `kubectl edit`."""
        client = self.leases().address.client()

        async def written() -> bool:
            found = await client.get()
            assert found is not None
            return await client.replace(found, found.record.taken(STRANGER, 3600)) is not None

        await until(written, "robbed", seconds=FOREVER_SECONDS)
        await client.close()

    async def read(self) -> StoredLease:
        """Return the stored Lease."""
        client = self.leases().address.client()
        found = await client.get()
        await client.close()
        assert found is not None
        return found

    def delete(self) -> None:
        """Delete the Lease from the cluster."""
        address = self.leases().address
        with closing(Client(address.config, namespace=address.namespace)) as client, suppress(ApiError):
            client.delete(Lease, self.name)

    async def record(self) -> LeaseRecord:
        """Return the record in the Lease."""
        return (await self.read()).record


@pytest.fixture
def _cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Set KUBECONFIG to the API server of this test."""
    if GIVEN:
        monkeypatch.setenv("KUBECONFIG", GIVEN)
        yield
        return
    with lease_api(tmp_path) as api:
        monkeypatch.setenv("KUBECONFIG", str(api.kubeconfig))
        yield


@pytest.fixture
def lease(_cluster: None) -> Iterator[LeaseArena]:
    """Yield a Lease that does not exist yet."""
    made = LeaseArena()
    yield made
    made.delete()


@pytest.fixture
def arena(lease: LeaseArena) -> Arena:
    """Return the Lease as the arena of the contract."""
    return lease


class TestContract(LeaseContract):
    """The contract of every elector, on a Lease."""


async def test_the_record_names_holder_duration_and_transitions(lease: LeaseArena) -> None:
    """The record names holder, duration and transitions: a renewal keeps them, a release clears the holder."""
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


async def test_a_new_elector_for_each_attempt_takes_over_in_time(lease: LeaseArena) -> None:
    """A follower makes a new elector for each attempt: it acquires a dead leader's Lease once that has expired."""
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


async def test_a_blocked_event_loop_keeps_the_hold(lease: LeaseArena) -> None:
    """The leader's event loop is blocked for longer than the Lease: its renewals continue and it keeps the hold."""
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


def test_a_stopped_leader_loses_the_lease_to_a_successor(lease: LeaseArena) -> None:
    """SIGSTOP outlasts the Lease: a successor leads; after SIGCONT the first raises HoldLost and releases nothing."""
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


def test_a_restarted_pod_waits_for_its_old_lease(lease: LeaseArena) -> None:
    """A leader is killed and starts again under the same host name: it waits until its old Lease expires."""
    with candidate("pod-0", lease.name, LEASE_SECONDS) as first:
        wait_until(first.leads, "the first leads", seconds=FOREVER_SECONDS)
        before = asyncio.run(lease.record())
    with candidate("pod-0", lease.name, LEASE_SECONDS) as again:
        assert not again.leads()
        wait_until(again.leads, "it leads again", seconds=FOREVER_SECONDS)
        after = asyncio.run(lease.record())
    assert (after.holder != before.holder, after.transitions) == (True, before.transitions + 1)


def test_one_of_two_racing_electors_acquires_the_lease(lease: LeaseArena) -> None:
    """Two processes try the Lease at the same moment 20 times: one acquires and confirms it, the other cannot."""
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
