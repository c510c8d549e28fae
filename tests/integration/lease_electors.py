"""Lease electors with a short Lease, and an API server for one test, for tests that make the API server fail."""

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from api.migrations.electors.kubernetes.elector import LeaseElection, LeaseElector
from api.migrations.errors import HoldLost, MigrationError
from api.migrations.settings import MigrationSettings
from tests.support.elector_contract import FOREVER_SECONDS
from tests.support.lease_api import NAMESPACE, LeaseApi, lease_api
from tests.support.pace import scaled
from tests.support.waiting import until

LEASE_SECONDS = math.ceil(scaled(3))
NAME = "ledger-migrations"
KEY = (NAMESPACE, NAME)

Make = Callable[..., LeaseElector]


@contextmanager
def serving(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LeaseApi]:
    """Start an API server for this test, and ignore the cluster that the environment names."""
    with lease_api(folder) as started:
        monkeypatch.setenv("KUBECONFIG", str(started.kubeconfig))
        yield started


@asynccontextmanager
async def making(api: LeaseApi) -> AsyncIterator[Make]:
    """Yield a function that makes electors, and release all of them at the end."""
    made = []

    def elector(instance: str = "first", **settings: Any) -> LeaseElector:
        values = {"lease_seconds": LEASE_SECONDS, "idle_seconds": 0, **settings}
        leases = LeaseElection.build(MigrationSettings.load(instance=instance, **values), NAME)
        made.append(leases.elector())
        return made[-1]

    yield elector
    api.fault = None
    for each in made:
        await each.release()


async def renewed(api: LeaseApi) -> None:
    """Wait until the API server has accepted one more renewal."""
    before = len(api.requests)

    async def again() -> bool:
        return any((each.verb, each.status) == ("update", 200) for each in api.requests[before:])

    await until(again, "a renewal", seconds=FOREVER_SECONDS)


def assert_discreet(error: MigrationError, api: LeaseApi) -> None:
    """Assert that the error contains neither the server's address nor the token."""
    assert [secret for secret in ("t0ken", str(api.port), "127.0.0.1", "http") if secret in str(error)] == []


async def reason(elector: LeaseElector) -> str:
    """Wait until the elector loses its hold; return the reason, and assert that `confirm` raises the same one."""
    lost = await asyncio.wait_for(elector.lost(), FOREVER_SECONDS)
    with pytest.raises(HoldLost) as raised:
        await elector.confirm()
    assert str(raised.value) == lost
    return lost
