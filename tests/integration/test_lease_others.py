"""Other clients that write the same Lease: another instance, a person, and an instance whose clock is wrong."""

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
    """Yield an API server for this test."""
    with serving(tmp_path, monkeypatch) as started:
        yield started


@pytest.fixture
async def make(api: LeaseApi) -> AsyncIterator[Make]:
    """Yield a function that makes electors, and release them at the end."""
    async with making(api) as elector:
        yield elector


@pytest.mark.parametrize("hours", [-1, 1])
async def test_a_leader_with_a_wrong_clock_keeps_its_lease(api: LeaseApi, make: Make, hours: int) -> None:
    """A leader's clock is an hour wrong: it keeps the Lease while it renews, and is succeeded in time when it stops."""
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


def taken_by_another(api: LeaseApi) -> None:
    """Let another client take the Lease, so that the next renewal is answered with 409."""
    api.store.edit(KEY, holderIdentity="thief")


def cleared(api: LeaseApi) -> None:
    """Remove the holder, as a person may."""
    api.store.edit(KEY, holderIdentity="")


def deleted(api: LeaseApi) -> None:
    """Delete the Lease, as a person may."""
    api.store.delete(KEY)


def recreated(api: LeaseApi) -> None:
    """Delete the Lease and create it for another client before the instance reads it."""
    body = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": NAME}}
    api.store.delete(KEY)
    api.store.create(KEY, {**body, "spec": {"holderIdentity": "thief"}})


def recreated_and_released(api: LeaseApi) -> None:
    """Delete the Lease, and create it without a holder."""
    recreated(api)
    cleared(api)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (taken_by_another, "is now held by thief"),
        (recreated, "was deleted and created again, and is now held by thief"),
        (recreated_and_released, "was deleted and created again, and names no holder any more"),
        (cleared, "names no holder any more"),
        (deleted, "was deleted"),
    ],
)
async def test_a_lease_that_another_client_changes_is_lost(
    api: LeaseApi, make: Make, change: Callable[[LeaseApi], None], words: str
) -> None:
    """Another client takes, clears or deletes the Lease: the leader loses its hold at once and writes nothing more."""
    first = make()
    assert await first.try_acquire()
    change(api)
    before = api.spec(NAME)
    assert f"{NAMESPACE}/{NAME} {words}; this instance" in await reason(first)
    assert not await first.try_acquire()
    await first.release()
    assert api.spec(NAME) == before


async def test_an_annotation_of_another_client_is_kept(api: LeaseApi, make: Make) -> None:
    """Another client annotates the Lease: the renewal gets one 409, the hold is kept and so is the annotation."""
    first = make()
    assert await first.try_acquire()
    api.store.annotate(KEY, team="shop")
    await renewed(api)
    await first.confirm()
    assert api.count(409) == 1
    assert api.store.get(KEY)["metadata"]["annotations"] == {"team": "shop"}
