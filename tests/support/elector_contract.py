"""The tests that every `Elector` must pass: on Redis, on the Kubernetes API, and in memory.

A test module subclasses `ElectorContract`, or `LeaseContract` if its hold expires, and has a fixture `arena`:

    class TestRedis(LeaseContract):
        \"\"\"Against a real server.\"\"\"

    @pytest.fixture
    def arena(redis_server: RedisServer) -> Arena: ...
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

import pytest

from api.migrations.core.protocols import Elector
from api.migrations.errors import HoldLost
from tests.support import waiting

FOREVER_SECONDS = waiting.FOREVER_SECONDS
"""No operation takes this long: a wait of this length means a hang."""

STRANGER = "stranger"
"""The leader after `Arena.take_away`."""

RIVALS = 20

Result = TypeVar("Result")


class Arena(Protocol):
    """Where electors compete, empty at the start of each test."""

    ttl_seconds: float
    """How many seconds the hold of a dead instance lasts; small, and ignored if no hold expires."""

    def make_elector(self, instance: str) -> Elector:
        """Make an elector of that instance for the one hold of this arena; does no I/O."""

    async def take_away(self) -> None:
        """Take the hold from its leader: `STRANGER` leads for the rest of the test."""


class Elsewhere:
    """An elector in its own thread and event loop, as in another process; a test can pause it."""

    def __init__(self, elector: Elector) -> None:
        self.elector = elector
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="elsewhere", daemon=True)
        self._awake = threading.Event()

    async def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Run a coroutine of the elector in its own loop; return the result."""
        done = asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))
        return await asyncio.wait_for(done, FOREVER_SECONDS)

    def pause(self) -> None:
        """Stop its loop, as SIGSTOP does."""
        stopped = threading.Event()

        def stand_still() -> None:
            stopped.set()
            self._awake.wait(FOREVER_SECONDS)

        self._awake.clear()
        self._loop.call_soon_threadsafe(stand_still)
        assert stopped.wait(FOREVER_SECONDS)

    def resume(self) -> None:
        """Let its loop continue, as SIGCONT does."""
        self._awake.set()

    @contextmanager
    def running(self) -> Iterator["Elsewhere"]:
        """Start the thread; at the end release the elector and end the thread."""
        self._thread.start()
        try:
            yield self
        finally:
            self.resume()
            asyncio.run_coroutine_threadsafe(self.elector.release(), self._loop).result(FOREVER_SECONDS)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()


class Electors:
    """Makes electors, and releases all of them at the end of the test."""

    def __init__(self, make: Callable[[str], Elector]) -> None:
        self._make = make
        self._made: list[Elector] = []

    def __call__(self, instance: str) -> Elector:
        """Make an elector of that instance."""
        self._made.append(self._make(instance))
        return self._made[-1]

    async def leader(self, instance: str = "first") -> Elector:
        """Make an elector that leads."""
        elector = self(instance)
        assert await elector.try_acquire()
        return elector

    async def release(self) -> None:
        """Release all electors."""
        for elector in self._made:
            await elector.release()


async def soon(work: Awaitable[Result]) -> Result:
    """Return the result, or fail instead of waiting for ever."""
    return await asyncio.wait_for(work, FOREVER_SECONDS)


class ElectorContract:
    """Tests that every elector must pass."""

    @pytest.fixture
    async def electors(self, arena: Arena) -> Any:
        """Yield a function that makes electors of the arena."""
        made = Electors(arena.make_elector)
        yield made
        await made.release()

    async def test_one_of_many_becomes_the_leader(self, electors: Electors) -> None:
        """Twenty electors try to acquire the hold at the same moment: one acquires it and leads."""
        rivals = [electors(f"rival-{number}") for number in range(RIVALS)]
        won = await asyncio.gather(*(rival.try_acquire() for rival in rivals))
        assert sorted(won) == [False] * (RIVALS - 1) + [True]
        leader = await rivals[0].leader()
        assert leader == f"rival-{won.index(True)}"

    async def test_the_leader_keeps_its_hold(self, electors: Electors) -> None:
        """The leader acquires and confirms again and again: it keeps the hold, and no other elector acquires it."""
        first, second = await electors.leader(), electors("second")
        for _ in range(3):
            await first.confirm()
            assert await first.try_acquire()
            assert not await second.try_acquire()

    async def test_a_released_hold_is_free_at_once(self, electors: Electors) -> None:
        """The leader releases its hold: another elector acquires it at once, and the first one cannot."""
        first, second = await electors.leader(), electors("second")
        assert not await second.try_acquire()
        await first.release()
        assert await second.try_acquire()
        assert not await first.try_acquire()

    async def test_an_elector_can_lead_again_after_a_release(self, electors: Electors) -> None:
        """The leader releases its hold: the same elector can acquire and confirm it again."""
        first = await electors.leader()
        await first.release()
        assert await first.try_acquire()
        await first.confirm()

    async def test_an_elector_that_does_not_lead_releases_nothing(self, electors: Electors) -> None:
        """An elector that does not lead releases before and after its failed try: the leader keeps the hold."""
        await electors.leader()
        second, third = electors("second"), electors("third")
        await second.release()
        assert not await second.try_acquire()
        await second.release()
        await second.release()
        assert not await third.try_acquire()
        assert await third.leader() == "first"

    async def test_every_elector_names_the_leader(self, electors: Electors) -> None:
        """Every elector names the leading instance, colons included, and none before and after."""
        second = electors("second")
        assert (await second.leader(), await second.ask()) == (None, None)
        first = await electors.leader("host:8000-17")
        told = {await each.leader() for each in (first, second)} | {await each.ask() for each in (first, second)}
        assert told == {"host:8000-17"}
        await first.release()
        assert (await second.leader(), await second.ask()) == (None, None)

    async def test_an_elector_that_does_not_lead_cannot_confirm(self, electors: Electors) -> None:
        """An elector that never tried, failed, or released its hold: `confirm` raises HoldLost."""
        first, second = await electors.leader(), electors("second")
        with pytest.raises(HoldLost):
            await second.confirm()
        assert not await second.try_acquire()
        with pytest.raises(HoldLost):
            await second.confirm()
        await first.release()
        with pytest.raises(HoldLost):
            await first.confirm()

    async def test_a_leader_notices_a_lost_hold_without_asking(self, arena: Arena, electors: Electors) -> None:
        """The hold is taken away: `lost` returns a reason by itself, and not before."""
        first = await electors.leader()
        lost = asyncio.create_task(first.lost())
        await first.confirm()
        assert not lost.done()
        await arena.take_away()
        assert len((await soon(lost)).split()) > 3
        assert await soon(first.lost())

    async def test_a_leader_notices_a_lost_hold_when_it_confirms(self, arena: Arena, electors: Electors) -> None:
        """The hold is taken away: the next `confirm` raises HoldLost, and `lost` returns."""
        first = await electors.leader()
        lost = asyncio.create_task(first.lost())
        await arena.take_away()
        with pytest.raises(HoldLost):
            await first.confirm()
        assert await soon(lost)

    async def test_a_lost_hold_stays_lost(self, arena: Arena, electors: Electors) -> None:
        """A lost hold stays lost for every `confirm`; releasing it does not take it from the new leader."""
        first, second = await electors.leader(), electors("second")
        await arena.take_away()
        await soon(first.lost())
        for _ in range(3):
            with pytest.raises(HoldLost):
                await first.confirm()
        await first.release()
        assert await second.leader() == STRANGER
        assert not await first.try_acquire()


class LeaseContract(ElectorContract):
    """Tests that every elector must pass whose hold ends by itself unless it is renewed."""

    async def test_a_leader_renews_its_hold(self, arena: Arena, electors: Electors) -> None:
        """Another elector tries for 2.5 times the ttl: it never acquires the hold, because the leader renews it."""
        first, second = await electors.leader(), electors("second")
        loop = asyncio.get_running_loop()
        end = loop.time() + 2.5 * arena.ttl_seconds

        async def outlasted() -> bool:
            assert not await second.try_acquire()
            return loop.time() > end

        await waiting.until(outlasted, "several times the ttl")
        await first.confirm()

    async def test_a_paused_leader_is_replaced(self, arena: Arena, electors: Electors) -> None:
        """The leader is paused: another one acquires the hold; the first then notices its loss and releases nothing."""
        second, third = electors("second"), electors("third")
        with Elsewhere(arena.make_elector("first")).running() as first:
            assert await first.run(first.elector.try_acquire())
            assert not await second.try_acquire()
            first.pause()
            await waiting.until(second.try_acquire, "a successor")
            first.resume()
            with pytest.raises(HoldLost):
                await first.run(first.elector.confirm())
            assert await first.run(first.elector.lost())
        await second.confirm()
        assert await third.leader() == "second"
