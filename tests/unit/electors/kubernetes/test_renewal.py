"""The renewal of a hold, with time that only moves when somebody waits or a request is made to last."""

import asyncio
import gc
from collections.abc import Callable
from typing import Any

import pytest

from api.migrations.electors.kubernetes.client import StoredLease
from api.migrations.electors.kubernetes.lease import LeaseRecord, LeaseTimings
from api.migrations.electors.kubernetes.renewal import LeaseKeeper, LoopWatchdog
from api.migrations.errors import AccessRefused, ElectorUnreachable, HoldLost
from tests.support.fakes import FOREVER_SECONDS, FakeClock

TEMPO = LeaseTimings(15)
MINE: Any = StoredLease(LeaseRecord("one_1", 15), None)  # type: ignore[arg-type]


class Api:
    """A `LeaseAddress` and its client: every renewal does what the test says."""

    def __init__(self, renewal: Callable[[int], None]) -> None:
        self._renewal = renewal
        self.renewals = 0

    def client(self) -> "Api":
        """Itself."""
        return self

    async def replace(self, stored: StoredLease, record: LeaseRecord) -> StoredLease:
        """A renewal."""
        self.renewals += 1
        self._renewal(self.renewals)
        return StoredLease(record, stored.raw)

    async def close(self) -> None:
        """There is nothing to close."""


async def lost(api: Any, clock: FakeClock, pulse: LoopWatchdog | None = None) -> tuple[str, LeaseKeeper]:
    """Hold until it is lost; the reason."""
    pulse = pulse or LoopWatchdog(asyncio.get_running_loop(), clock, float("inf"))
    keeper = LeaseKeeper(api, MINE, TEMPO, clock, pulse, clock.monotonic())
    keeper.start()
    reason = await asyncio.wait_for(asyncio.wrap_future(keeper.lost), FOREVER_SECONDS)
    await keeper.stop()
    return reason, keeper


async def test_a_slow_success_stretches_nothing() -> None:
    """The renewal that took 5 s counts from when it began; the hold ends 10 s after that."""
    clock = FakeClock()
    began = []

    def renewal(number: int) -> None:
        if number > 1:
            raise ElectorUnreachable("it does not answer")
        began.append(clock.seconds)
        clock.seconds += 5

    reason, keeper = await lost(Api(renewal), clock)
    assert clock.seconds == pytest.approx(began[0] + 10)
    assert "not renewed within 10 s: each renewal failed: it does not answer" in reason
    with pytest.raises(HoldLost):
        keeper.check(spare_seconds=0)


async def test_a_refusal_is_told_although_the_last_request_was_cut_short() -> None:
    """The hold ends before a renewal is answered: the reason is what the API answered to the one before."""
    clock = FakeClock()

    def renewal(number: int) -> None:
        raise AccessRefused("it answers 401") if number == 1 else TimeoutError

    reason, keeper = await lost(Api(renewal), clock)
    assert reason.endswith("not renewed within 10 s: each renewal failed: it answers 401")
    with pytest.raises(HoldLost, match="answers 401"):
        keeper.check(spare_seconds=0)


async def test_a_failure_before_a_success_is_no_reason() -> None:
    """A process that stood still after a renewal that succeeded says so, and not what failed long before."""
    clock = FakeClock()

    def renewal(number: int) -> None:
        if number == 1:
            raise ElectorUnreachable("it does not answer")
        if number == 3:
            clock.seconds += 3600

    reason, _ = await lost(Api(renewal), clock)
    assert reason.endswith("this process stood still")


async def test_each_failure_is_told_once() -> None:
    """In the order in which they came."""
    clock, told = FakeClock(), ["it answers 500", "it answers 401", "it answers 401"]

    def renewal(number: int) -> None:
        raise ElectorUnreachable(told[min(number, 3) - 1])

    assert (await lost(Api(renewal), clock))[0].endswith("each renewal failed: it answers 500; then it answers 401")


async def test_an_answer_from_before_the_freeze_proves_nothing() -> None:
    """The process slept for an hour between request and answer: the answer says yes, and the hold is lost."""
    clock = FakeClock()
    api = Api(lambda _: setattr(clock, "seconds", clock.seconds + 3600))
    assert "not renewed" in (await lost(api, clock))[0]
    assert api.renewals == 1


async def test_a_loop_that_hangs_does_not_hold_for_ever() -> None:
    """The thread renews for a loop that computes, and lets go of one that does so for too long."""
    clock, hung = FakeClock(), asyncio.new_event_loop()
    began, api = clock.seconds, Api(lambda _: None)
    try:
        reason, _ = await lost(api, clock, LoopWatchdog(hung, clock, 60))
    finally:
        hung.close()
    assert "did nothing for 60 s" in reason
    assert 60 < clock.seconds - began < 65
    assert api.renewals > 60 / 4.4 - 1


async def test_a_hold_that_is_given_back_at_once() -> None:
    """Its thread is stopped before it has begun: nothing is raised, reported or lost."""
    clock, api = FakeClock(), Api(lambda _: None)
    reports: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, report: reports.append(report))
    for _ in range(20):
        pulse = LoopWatchdog(asyncio.get_running_loop(), clock, float("inf"))
        keeper = LeaseKeeper(api, MINE, TEMPO, clock, pulse, clock.monotonic())  # type: ignore[arg-type]
        keeper._thread.cancel()
        keeper.start()
        await keeper.stop()
        assert not keeper.lost.done()
        del keeper
    gc.collect()
    assert reports == []


async def test_nobody_is_left_to_hold_for() -> None:
    """The loop was closed without a release: the thread lets go at its next renewal."""
    clock, gone = FakeClock(), asyncio.new_event_loop()
    gone.close()
    api = Api(lambda _: None)
    await lost(api, clock, LoopWatchdog(gone, clock, float("inf")))
    assert api.renewals == 0
