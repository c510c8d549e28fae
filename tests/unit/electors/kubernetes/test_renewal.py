"""The leader renews its hold, on a clock that moves only during a pause or a request."""

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
    """A `LeaseAddress` and its client in which each renewal does what the test says."""

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
    """Return a hold that was just acquired and not yet renewed."""
    watchdog = watchdog or LoopWatchdog(asyncio.get_running_loop(), clock, float("inf"))
    return LeaseKeeper(api, MINE, LeaseTimings(15), clock, watchdog, clock.monotonic())


async def lost(api: Any, clock: FakeClock, watchdog: LoopWatchdog | None = None) -> tuple[str, LeaseKeeper]:
    """Renew until the hold is lost, and return the reason."""
    keeper = keeper_of(api, clock, watchdog)
    keeper.start()
    reason = await asyncio.wait_for(asyncio.wrap_future(keeper.lost), FOREVER_SECONDS)
    await keeper.stop()
    return reason, keeper


async def test_a_slow_renewal_does_not_extend_the_hold() -> None:
    """A renewal that takes 5 s counts from its start: the hold ends 10 s after that."""
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


async def test_the_reason_of_a_loss_includes_an_earlier_refusal() -> None:
    """The hold expires during a renewal: the reason of the loss is the refusal of the renewal before it."""

    def renewal(number: int) -> None:
        raise AccessRefused("it answers 401") if number == 1 else TimeoutError

    reason, keeper = await lost(Api(renewal), FakeClock())
    assert reason.endswith("not renewed within 10 s: each renewal failed: it answers 401")
    with pytest.raises(HoldLost, match="answers 401"):
        keeper.check(spare_seconds=0)


async def test_the_reason_of_a_loss_excludes_failures_before_a_success() -> None:
    """The process is paused after a successful renewal: the reason of the loss is the pause, not an older failure."""
    clock = FakeClock()

    def renewal(number: int) -> None:
        if number == 1:
            raise ElectorUnreachable("it does not answer")
        if number == 3:
            clock.seconds += 3600

    reason, _ = await lost(Api(renewal), clock)
    assert reason.endswith("this process was paused")


async def test_the_reason_of_a_loss_lists_each_failure_once() -> None:
    """The reason of a loss lists the different failures once, in their order."""
    failures = ["it answers 500", "it answers 401", "it answers 401"]

    def renewal(number: int) -> None:
        raise ElectorUnreachable(failures[min(number, 3) - 1])

    reason, _ = await lost(Api(renewal), FakeClock())
    assert reason.endswith("each renewal failed: it answers 500; then it answers 401")


async def test_a_renewal_answered_after_a_long_pause_loses_the_hold() -> None:
    """The process is paused for an hour between request and answer: the hold is lost although the answer is yes."""
    clock = FakeClock()
    api = Api(lambda _: setattr(clock, "seconds", clock.seconds + 3600))
    assert "not renewed" in (await lost(api, clock))[0]
    assert api.renewals == 1


async def test_a_blocked_event_loop_loses_the_hold_at_the_idle_limit() -> None:
    """The event loop is blocked: the thread renews the hold up to the idle limit and not longer."""
    clock, hung = FakeClock(), asyncio.new_event_loop()
    began, api = clock.seconds, Api(lambda _: None)
    try:
        reason, _ = await lost(api, clock, LoopWatchdog(hung, clock, 60))
    finally:
        hung.close()
    assert "did not respond for 60 s" in reason
    assert 60 < clock.seconds - began < 65
    assert api.renewals > 60 / 4.4 - 1


async def test_a_hold_released_before_its_first_renewal_is_not_lost() -> None:
    """The hold is released before its thread has begun: nothing is raised, reported or lost."""
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


async def test_renewal_stops_when_the_event_loop_is_closed() -> None:
    """The event loop was closed without a release: the thread stops at its next renewal."""
    clock, closed = FakeClock(), asyncio.new_event_loop()
    closed.close()
    api = Api(lambda _: None)
    await lost(api, clock, LoopWatchdog(closed, clock, float("inf")))
    assert api.renewals == 0
