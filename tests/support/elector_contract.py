"""What every `Elector` must do, whatever it asks: Redis, the Kubernetes API, or a twin in memory.

A test module subclasses `ElectorContract`, or `LeaseContract` where a hold ends by time, and has a fixture `arena`:

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
"""Longer than anything takes: whoever waits that long has hung."""

STRANGER = "stranger"
"""Who leads after `Arena.take_away`."""

RIVALS = 20

Result = TypeVar("Result")


class Arena(Protocol):
    """Where electors meet, empty at the start of each test."""

    ttl_seconds: float
    """How long the hold of a dead one lasts; small, and ignored where none ends by time."""

    def make_elector(self, instance: str) -> Elector:
        """A new elector of that instance, for the hold that all of this arena want; does no I/O."""

    async def take_away(self) -> None:
        """Whoever leads is robbed: from now on it is `STRANGER`, and stays so for the rest of the test."""


class Elsewhere:
    """An elector in a thread and event loop of its own, as in another process; it can be paused like one."""

    def __init__(self, elector: Elector) -> None:
        self.elector = elector
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="elsewhere", daemon=True)
        self._awake = threading.Event()

    async def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """The result of a coroutine of the elector, in its own loop."""
        done = asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))
        return await asyncio.wait_for(done, FOREVER_SECONDS)

    def pause(self) -> None:
        """Nothing of it runs from now on, as after SIGSTOP."""
        stopped = threading.Event()

        def stand_still() -> None:
            stopped.set()
            self._awake.wait(FOREVER_SECONDS)

        self._awake.clear()
        self._loop.call_soon_threadsafe(stand_still)
        assert stopped.wait(FOREVER_SECONDS)

    def resume(self) -> None:
        """As after SIGCONT."""
        self._awake.set()

    @contextmanager
    def running(self) -> Iterator["Elsewhere"]:
        """Start the thread, and end it with the elector released."""
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
    """Makes electors, and releases at the end of the test all that it made."""

    def __init__(self, make: Callable[[str], Elector]) -> None:
        self._make = make
        self._made: list[Elector] = []

    def __call__(self, instance: str) -> Elector:
        """A new elector of that instance."""
        self._made.append(self._make(instance))
        return self._made[-1]

    async def leader(self, instance: str = "first") -> Elector:
        """A new elector that leads."""
        elector = self(instance)
        assert await elector.try_acquire()
        return elector

    async def release(self) -> None:
        """Release them all."""
        for elector in self._made:
            await elector.release()


async def soon(work: Awaitable[Result]) -> Result:
    """The result, or a failure instead of a hang."""
    return await asyncio.wait_for(work, FOREVER_SECONDS)


class ElectorContract:
    """Holds for every elector."""

    @pytest.fixture
    async def electors(self, arena: Arena) -> Any:
        """Makes electors of the arena."""
        made = Electors(arena.make_elector)
        yield made
        await made.release()

    async def test_one_of_many_becomes_the_leader(self, electors: Electors) -> None:
        """They all try at the same moment."""
        rivals = [electors(f"rival-{number}") for number in range(RIVALS)]
        won = await asyncio.gather(*(rival.try_acquire() for rival in rivals))
        assert sorted(won) == [False] * (RIVALS - 1) + [True]
        leader = await rivals[0].leader()
        assert leader == f"rival-{won.index(True)}"

    async def test_the_leader_keeps_its_hold(self, electors: Electors) -> None:
        """It may ask again and make sure as often as it likes."""
        first, second = await electors.leader(), electors("second")
        for _ in range(3):
            await first.confirm()
            assert await first.try_acquire()
            assert not await second.try_acquire()

    async def test_release_frees_it_at_once(self, electors: Electors) -> None:
        """The next one does not wait for any time to pass."""
        first, second = await electors.leader(), electors("second")
        assert not await second.try_acquire()
        await first.release()
        assert await second.try_acquire()
        assert not await first.try_acquire()

    async def test_it_may_lead_again_after_a_release(self, electors: Electors) -> None:
        """One object serves several sessions, one after the other."""
        first = await electors.leader()
        await first.release()
        assert await first.try_acquire()
        await first.confirm()

    async def test_who_does_not_lead_frees_nothing(self, electors: Electors) -> None:
        """Neither before a try nor after one that failed, however often it releases."""
        await electors.leader()
        second, third = electors("second"), electors("third")
        await second.release()
        assert not await second.try_acquire()
        await second.release()
        await second.release()
        assert not await third.try_acquire()
        assert await third.leader() == "first"

    async def test_everybody_sees_who_leads(self, electors: Electors) -> None:
        """By the name of the instance, colons and all, and nobody before and after."""
        second = electors("second")
        assert (await second.leader(), await second.ask()) == (None, None)
        first = await electors.leader("host:8000-17")
        told = {await who.leader() for who in (first, second)} | {await who.ask() for who in (first, second)}
        assert told == {"host:8000-17"}
        await first.release()
        assert (await second.leader(), await second.ask()) == (None, None)

    async def test_who_does_not_lead_cannot_confirm(self, electors: Electors) -> None:
        """Neither who never tried, nor who failed, nor who gave it back."""
        first, second = await electors.leader(), electors("second")
        with pytest.raises(HoldLost):
            await second.confirm()
        assert not await second.try_acquire()
        with pytest.raises(HoldLost):
            await second.confirm()
        await first.release()
        with pytest.raises(HoldLost):
            await first.confirm()

    async def test_a_loss_is_noticed_without_asking(self, arena: Arena, electors: Electors) -> None:
        """`lost` returns then, and not before, and has something to say."""
        first = await electors.leader()
        lost = asyncio.create_task(first.lost())
        await first.confirm()
        assert not lost.done()
        await arena.take_away()
        assert len((await soon(lost)).split()) > 3
        assert await soon(first.lost())

    async def test_a_loss_is_noticed_by_asking(self, arena: Arena, electors: Electors) -> None:
        """The very next `confirm` after it raises, and `lost` returns."""
        first = await electors.leader()
        lost = asyncio.create_task(first.lost())
        await arena.take_away()
        with pytest.raises(HoldLost):
            await first.confirm()
        assert await soon(lost)

    async def test_what_is_lost_stays_lost(self, arena: Arena, electors: Electors) -> None:
        """Until it is released; and that does not take it from whoever has it now."""
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
    """Holds for electors whose hold ends by itself when nobody renews it."""

    async def test_a_hold_renews_itself(self, arena: Arena, electors: Electors) -> None:
        """For several times as long as it would last, while others try all the time."""
        first, second = await electors.leader(), electors("second")
        loop = asyncio.get_running_loop()
        end = loop.time() + 2.5 * arena.ttl_seconds

        async def outlasted() -> bool:
            assert not await second.try_acquire()
            return loop.time() > end

        await waiting.until(outlasted, "several times the ttl")
        await first.confirm()

    async def test_a_paused_leader_is_succeeded(self, arena: Arena, electors: Electors) -> None:
        """When it goes on it finds that out, by asking as well as by itself, and frees nothing."""
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
