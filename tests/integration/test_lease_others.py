"""What the Lease elector makes of others who write the same Lease: robbers, people, and clocks that are wrong."""

import math
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.integration.lease_electors import KEY, NAME, Make, making, reason, renewed, serving
from tests.support.elector_contract import FOREVER_SECONDS
from tests.support.lease_api import NAMESPACE, LeaseApi
from tests.support.pace import scaled
from tests.support.waiting import until


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LeaseApi]:
    """A server of the test's own."""
    with serving(tmp_path, monkeypatch) as started:
        yield started


@pytest.fixture
async def make(api: LeaseApi) -> AsyncIterator[Make]:
    """Makes electors, and releases them at the end."""
    async with making(api) as elector:
        yield elector


@pytest.mark.parametrize("hours", [-1, 1])
async def test_a_clock_that_is_an_hour_wrong_is_not_robbed(api: LeaseApi, make: Make, hours: int) -> None:
    """As long as it renews; and when it does not, it is succeeded as soon as anybody else."""
    follower, duration = make(), math.ceil(scaled(1))

    def now() -> str:
        return (datetime.now(UTC) + timedelta(hours=hours)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")

    spec = {"holderIdentity": "skewed", "leaseDurationSeconds": duration, "renewTime": now(), "leaseTransitions": 7}
    body = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": NAME}, "spec": spec}
    api.store.create(KEY, body)
    end = time.monotonic() + 2 * duration

    async def outlasted() -> bool:
        api.store.edit(KEY, renewTime=now())
        assert not await follower.try_acquire()
        return time.monotonic() > end

    await until(outlasted, "two lease durations", seconds=FOREVER_SECONDS)
    await until(follower.try_acquire, "a successor", seconds=FOREVER_SECONDS)
    assert api.spec(NAME)["leaseTransitions"] == 8


def robbed(api: LeaseApi) -> None:
    """Somebody else was faster: the next renewal is answered with 409."""
    api.store.edit(KEY, holderIdentity="thief")


def cleared(api: LeaseApi) -> None:
    """A person has emptied it."""
    api.store.edit(KEY, holderIdentity="")


def deleted(api: LeaseApi) -> None:
    """A person has deleted it."""
    api.store.delete(KEY)


def recreated(api: LeaseApi) -> None:
    """Deleted and created by another client before this instance looked."""
    body = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": NAME}}
    api.store.delete(KEY)
    api.store.create(KEY, {**body, "spec": {"holderIdentity": "thief"}})


def recreated_and_released(api: LeaseApi) -> None:
    """Another instance had it meanwhile."""
    recreated(api)
    cleared(api)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (robbed, "is now held by thief"),
        (recreated, "was deleted and created again, and is now held by thief"),
        (recreated_and_released, "was deleted and created again, and names no holder any more"),
        (cleared, "names no holder any more"),
        (deleted, "was deleted"),
    ],
)
async def test_what_others_do_to_it_is_a_loss(
    api: LeaseApi, make: Make, change: Callable[[LeaseApi], None], words: str
) -> None:
    """At once, with who or what it was; the loser writes nothing after it."""
    first = make()
    assert await first.try_acquire()
    change(api)
    before = api.spec(NAME)
    assert f"{NAMESPACE}/{NAME} {words}; this instance" in await reason(first)
    assert not await first.try_acquire()
    await first.release()
    assert api.spec(NAME) == before


async def test_what_others_add_to_it_is_kept(api: LeaseApi, make: Make) -> None:
    """An annotation makes the next renewal a 409, takes nothing away, and is still there afterwards."""
    first = make()
    assert await first.try_acquire()
    api.store.annotate(KEY, team="shop")
    await renewed(api)
    await first.confirm()
    assert api.count(409) == 1
    assert api.store.get(KEY)["metadata"]["annotations"] == {"team": "shop"}
