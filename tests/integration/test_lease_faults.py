"""The Lease elector while the API server fails, does not answer, or closes the connection."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from api.migrations.electors.kubernetes.elector import LeaseElector
from api.migrations.electors.kubernetes.lease import LeaseTimings
from api.migrations.errors import ElectorUnreachable, HoldLost
from tests.integration.lease_electors import (
    LEASE_SECONDS,
    NAME,
    Make,
    assert_discreet,
    making,
    reason,
    renewed,
    serving,
)
from tests.support.elector_contract import FOREVER_SECONDS
from tests.support.lease_api import Fault, LeaseApi
from tests.support.waiting import until

UPDATES = frozenset({"update"})
REFUSED = 2
"""How many requests a restarted API server refuses: fewer than the elector needs to give up."""
TEMPO = LeaseTimings(LEASE_SECONDS)


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


HICCUPS = {
    "500": Fault(status=500, times=1),
    "401": Fault(status=401, times=1),
    "403": Fault(status=403, times=1),
    "429": Fault(status=429, times=1),
    "no answer": Fault(delay_seconds=9, times=1),
    "cut off before": Fault(cut="before", times=1),
    "cut off after": Fault(cut="after", times=1),
    "half an answer": Fault(cut="halfway", times=1),
}


async def confirmed(elector: LeaseElector) -> bool:
    """Return whether the hold is confirmed; False while the answer to a renewal is on its way.

    Raises:
        HoldLost: the hold is lost.
    """
    try:
        await elector.confirm()
    except HoldLost as error:
        if "is trusted for only" not in str(error):
            raise
        return False
    return True


async def test_a_renewal_that_fails_once_keeps_the_hold(api: LeaseApi, make: Make) -> None:
    """One renewal fails, in each possible way: the next one comes before the deadline and the hold is kept."""
    first = make()
    assert await first.try_acquire()
    taken = api.spec(NAME)
    for what, fault in HICCUPS.items():
        api.fault = Fault(fault.status, fault.delay_seconds, fault.cut, UPDATES, times=1)
        await until(lambda: asyncio.sleep(0, api.fault.times == 0), what, seconds=FOREVER_SECONDS)
        await renewed(api)
        await until(lambda: confirmed(first), f"the hold after {what}", seconds=FOREVER_SECONDS)
    now = api.spec(NAME)
    assert [name for name in taken if taken[name] != now[name]] == ["renewTime"]


async def test_an_outage_shorter_than_the_deadline_keeps_the_hold(api: LeaseApi, make: Make) -> None:
    """The API answers 500 for less than the renew deadline: the hold is kept and can be confirmed meanwhile."""
    first = make(lease_seconds=2 * LEASE_SECONDS)
    assert await first.try_acquire()
    api.fault = Fault(status=500)

    async def failed_twice() -> bool:
        await confirmed(first)
        return [each.status for each in api.requests if each.verb == "update"][:2] == [500, 500]

    await until(failed_twice, "two renewals that fail", seconds=FOREVER_SECONDS)
    api.fault = None
    await renewed(api)
    await until(lambda: confirmed(first), "the hold after the renewal", seconds=FOREVER_SECONDS)


@pytest.mark.parametrize("down", [False, True], ids=["500", "refused"])
async def test_an_outage_longer_than_the_deadline_ends_the_hold(api: LeaseApi, make: Make, down: bool) -> None:
    """The API is down past the deadline: the leader gives up by its own clock before a successor acquires the Lease."""
    first, second = make(), make("second")
    assert await first.try_acquire()
    assert not await second.try_acquire()
    changed, seen = api.spec(NAME)["renewTime"], time.monotonic()
    if down:
        api.stop()
    else:
        api.fault = Fault(status=500)
    assert f"was not renewed within {TEMPO.renew_deadline_seconds:g} s" in await reason(first)
    if down:
        api.start()
    api.fault = None
    # the leader may have renewed once more before the fault
    assert not await second.try_acquire()
    seen = seen if api.spec(NAME)["renewTime"] == changed else time.monotonic()
    await until(second.try_acquire, "a successor", seconds=FOREVER_SECONDS)
    assert time.monotonic() - seen >= LEASE_SECONDS
    await first.release()
    assert api.holder(NAME).startswith("second_")


AWAY = {
    "500": (Fault(status=500), "answers 500"),
    "503": (Fault(status=503), "answers 503"),
    "429": (Fault(status=429), "answers 429"),
    "no answer": (Fault(delay_seconds=9), f"no answer of the Kubernetes API within {TEMPO.request_seconds:g} s"),
    "cut off": (Fault(cut="before"), "was cut"),
    "half an answer": (Fault(cut="halfway"), "was cut"),
    "refused": (None, "no connection"),
}


@pytest.mark.parametrize(("fault", "words"), AWAY.values(), ids=AWAY)
async def test_an_elector_without_an_answer_can_retry(
    api: LeaseApi, make: Make, fault: Fault | None, words: str
) -> None:
    """The API gives no usable answer: the elector raises a transient error, and its next attempt succeeds."""
    first = make()
    if fault is None:
        api.stop()
    else:
        api.fault = fault
    with pytest.raises(ElectorUnreachable, match=words) as raised:
        await first.try_acquire()
    assert_discreet(raised.value, api)
    assert api.count() <= 1
    if fault is None:
        api.start()
    api.fault = None
    assert await first.try_acquire()


@pytest.mark.parametrize("status", [401, 403])
async def test_a_temporary_refusal_is_retried(api: LeaseApi, make: Make, status: int) -> None:
    """A restarted API server refuses its first requests: the elector still acquires, reads and releases."""

    def restarted() -> None:
        api.stop()
        api.start(refusing=status)
        api.fault.times = REFUSED

    first, second = make(lease_seconds=30), make("second", lease_seconds=30)
    restarted()
    assert await first.try_acquire()
    restarted()
    assert await second.ask() == "first"
    restarted()
    await first.release()
    assert (api.holder(NAME), api.count(status)) == ("", 3 * REFUSED)


@pytest.mark.parametrize("status", [401, 403])
async def test_refused_renewals_end_the_hold_at_its_deadline(api: LeaseApi, make: Make, status: int) -> None:
    """Every renewal is refused: the hold lasts to its deadline, and the reason names the API server's answer."""
    first = make()
    assert await first.try_acquire()
    await first.confirm()
    api.fault = Fault(status=status)
    await first.confirm()
    lost = await reason(first)
    assert (
        f"was not renewed within {TEMPO.renew_deadline_seconds:g} s: each renewal failed: cannot update Lease " in lost
    )
    assert (f"{status}" in lost, "no answer" in lost) == (True, False), lost
    assert api.count(status) >= 2


async def test_a_grant_whose_answer_was_lost_does_not_count(api: LeaseApi, make: Make) -> None:
    """The answer to a grant is lost: the elector has no hold, its next attempt finds the grant, a release ends it."""
    first, second = make(), make("second")
    api.fault = Fault(cut="after", verbs=frozenset({"create"}), times=1)
    with pytest.raises(ElectorUnreachable):
        await first.try_acquire()
    assert api.holder(NAME).startswith("first_")
    with pytest.raises(HoldLost):
        await first.confirm()
    assert not await second.try_acquire()
    await first.release()
    api.fault = Fault(cut="after", verbs=UPDATES, times=1)
    with pytest.raises(ElectorUnreachable):
        await second.try_acquire()
    assert await second.try_acquire()
    await second.confirm()


async def test_a_release_without_an_answer_returns(api: LeaseApi, make: Make) -> None:
    """The API server does not answer a release: `release` returns without an error and the Lease expires."""
    first = make()
    assert await first.try_acquire()
    api.fault = Fault(delay_seconds=9)
    await asyncio.wait_for(first.release(), FOREVER_SECONDS)
    assert api.holder(NAME).startswith("first_")
    api.fault = None
    await first.release()
