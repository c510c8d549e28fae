"""What the Lease elector makes of an API server that fails, hangs or is cut off."""

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
"""So many requests are refused before the API server knows better; less than it takes to believe it."""
TEMPO = LeaseTimings(LEASE_SECONDS)


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
    """Whether the hold is certain for long enough; not yet where the server's answer to the renewal is on its way.

    Raises:
        HoldLost: it is lost.
    """
    try:
        await elector.confirm()
    except HoldLost as error:
        if "is trusted for only" not in str(error):
            raise
        return False
    return True


async def test_a_renewal_that_fails_once_loses_nothing(api: LeaseApi, make: Make) -> None:
    """Whichever way it fails: the next one comes before the deadline, and finds that an unheard one was done."""
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


async def test_the_api_is_away_for_less_than_the_deadline(api: LeaseApi, make: Make) -> None:
    """All its answers are 500 for a while: the hold is kept, and can be confirmed meanwhile."""
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
async def test_the_api_is_away_for_longer(api: LeaseApi, make: Make, down: bool) -> None:
    """The leader gives up by its own clock, and before anybody else gets in by theirs."""
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
    # a renewal may have come between that look and the fault
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
async def test_who_gets_no_answer_tries_again(api: LeaseApi, make: Make, fault: Fault | None, words: str) -> None:
    """It is transient, one request long, and nothing is left to hinder the next try."""
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
async def test_a_refusal_that_passes_is_waited_out(api: LeaseApi, make: Make, status: int) -> None:
    """A restarted API server refuses everything at first: reading, acquiring and releasing go on once it does not."""

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
async def test_a_renewal_that_is_refused_throughout(api: LeaseApi, make: Make, status: int) -> None:
    """The hold lasts to its deadline, a confirmation included; then the reason is what the API answered."""
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


async def test_a_grant_that_nobody_heard_of(api: LeaseApi, make: Make) -> None:
    """Its answer was cut off: it does not count, is not lost to the one that asked, and goes with a release."""
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


async def test_a_release_without_an_answer_ends(api: LeaseApi, make: Make) -> None:
    """It raises nothing and leaves the Lease to run out."""
    first = make()
    assert await first.try_acquire()
    api.fault = Fault(delay_seconds=9)
    await asyncio.wait_for(first.release(), FOREVER_SECONDS)
    assert api.holder(NAME).startswith("first_")
    api.fault = None
    await first.release()
