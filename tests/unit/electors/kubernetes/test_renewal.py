"""The renewal of a hold, on a clock that moves only when the code waits or a test makes a request last."""

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

MINE: Any = StoredLease(LeaseRecord("one_1", 15), None)  # type: ignore[arg-type]


class Api:
    """A `LeaseAddress` and its client: every renewal does what the test says."""

    def __init__(self, renewal: Callable[[int], None]) -> None:
        self._renewal = renewal
        self.renewals = 0

    def client(self) -> "Api":
        """Return itself."""
        return self

    async def replace(self, stored: StoredLease, record: LeaseRecord) -> StoredLease:
        """Renew."""
        self.renewals += 1
        self._renewal(self.renewals)
        return StoredLease(record, stored.raw)

    async def close(self) -> None:
        """Do nothing."""


def keeper_of(api: Any, clock: FakeClock, watchdog: LoopWatchdog | None = None) -> LeaseKeeper:
    """Return a hold that was acquired just now, not yet renewed."""
    watchdog = watchdog or LoopWatchdog(asyncio.get_running_loop(), clock, float("inf"))
    return LeaseKeeper(api, MINE, LeaseTimings(15), clock, watchdog, clock.monotonic())


async def lost(api: Any, clock: FakeClock, watchdog: LoopWatchdog | None = None) -> tuple[str, LeaseKeeper]:
    """Renew until the hold is lost; returns the reason."""
    keeper = keeper_of(api, clock, watchdog)
    keeper.start()
    reason = await asyncio.wait_for(asyncio.wrap_future(keeper.lost), FOREVER_SECONDS)
    await keeper.stop()
    return reason, keeper


async def test_a_slow_success_stretches_nothing() -> None:
    """A renewal that took 5 s counts from its start; the hold ends 10 s after that."""
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
    """The hold ends before a renewal is answered: the reason is the answer to the renewal before it."""

    def renewal(number: int) -> None:
        raise AccessRefused("it answers 401") if number == 1 else TimeoutError

    reason, keeper = await lost(Api(renewal), FakeClock())
    assert reason.endswith("not renewed within 10 s: each renewal failed: it answers 401")
    with pytest.raises(HoldLost, match="answers 401"):
        keeper.check(spare_seconds=0)


async def test_a_failure_before_a_success_is_no_reason() -> None:
    """If the process was paused after a successful renewal, the reason is the pause, not an earlier failure."""
    clock = FakeClock()

    def renewal(number: int) -> None:
        if number == 1:
            raise ElectorUnreachable("it does not answer")
        if number == 3:
            clock.seconds += 3600

    reason, _ = await lost(Api(renewal), clock)
    assert reason.endswith("this process was paused")


async def test_each_failure_is_told_once() -> None:
    """The reason lists the failures in their order."""
    failures = ["it answers 500", "it answers 401", "it answers 401"]

    def renewal(number: int) -> None:
        raise ElectorUnreachable(failures[min(number, 3) - 1])

    reason, _ = await lost(Api(renewal), FakeClock())
    assert reason.endswith("each renewal failed: it answers 500; then it answers 401")


async def test_an_answer_from_before_the_freeze_proves_nothing() -> None:
    """The process was paused for an hour between request and answer: the answer says yes, and the hold is lost."""
    clock = FakeClock()
    api = Api(lambda _: setattr(clock, "seconds", clock.seconds + 3600))
    assert "not renewed" in (await lost(api, clock))[0]
    assert api.renewals == 1


async def test_a_loop_that_hangs_does_not_hold_for_ever() -> None:
    """The thread renews for a loop that computes, but not for longer than the idle limit."""
    clock, hung = FakeClock(), asyncio.new_event_loop()
    began, api = clock.seconds, Api(lambda _: None)
    try:
        reason, _ = await lost(api, clock, LoopWatchdog(hung, clock, 60))
    finally:
        hung.close()
    assert "did not respond for 60 s" in reason
    assert 60 < clock.seconds - began < 65
    assert api.renewals > 60 / 4.4 - 1


async def test_a_hold_that_is_given_back_at_once() -> None:
    """If its thread is stopped before it has begun, nothing is raised, reported or lost."""
    reports: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, report: reports.append(report))
    for _ in range(20):
        keeper = keeper_of(Api(lambda _: None), FakeClock())
        keeper._thread.cancel()
        keeper.start()
        await keeper.stop()
        assert not keeper.lost.done()
        del keeper
    gc.collect()
    assert reports == []


async def test_nobody_is_left_to_hold_for() -> None:
    """If the loop was closed without a release, the thread stops at its next renewal."""
    clock, closed = FakeClock(), asyncio.new_event_loop()
    closed.close()
    api = Api(lambda _: None)
    await lost(api, clock, LoopWatchdog(closed, clock, float("inf")))
    assert api.renewals == 0
