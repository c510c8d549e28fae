"""A DNS lookup that hangs does not block the event loop, and is not sent twice."""

import asyncio
import socket
import threading
from typing import Any

import pytest

from api.migrations.runtime.dns import ResolvingLoop, run
from tests.support.waiting import FOREVER_SECONDS

ANSWER = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 5432))]


class Resolver:
    """Answers, or fails, once `go_on` is set."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.go_on = threading.Event()
        self.error: OSError | None = None

    def __call__(self, *question: Any) -> Any:
        """Answer."""
        self.asked.append(question)
        assert self.go_on.wait(FOREVER_SECONDS)
        if self.error is not None:
            raise self.error
        return ANSWER


@pytest.fixture
def resolver() -> Resolver:
    """Return a resolver that hangs at first."""
    return Resolver()


def on_a_loop(resolver: Resolver, work: Any) -> Any:
    """Run `work()` on a new loop that asks `resolver`."""
    with asyncio.Runner(loop_factory=lambda: ResolvingLoop(resolver)) as runner:
        return runner.run(work())


async def look_up(host: str = "database") -> Any:
    """Ask the loop as asyncpg does, for as long as a connection may take."""
    return await asyncio.wait_for(asyncio.get_running_loop().getaddrinfo(host, 5432), 0.05)


async def gives_up(host: str = "database") -> None:
    """Ask the loop, without an answer in time."""
    with pytest.raises(TimeoutError):
        await look_up(host)


def test_the_event_loop_closes_while_a_lookup_hangs(resolver: Resolver) -> None:
    """The event loop closes while a lookup hangs in a daemon thread, for which asyncio's own loop would wait."""
    on_a_loop(resolver, gives_up)
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "resolver"]
    assert thread.daemon
    resolver.go_on.set()
    thread.join(FOREVER_SECONDS)
    assert not thread.is_alive()


def test_repeated_lookups_share_one_request(resolver: Resolver) -> None:
    """Five lookups of a host time out: the next one gets the late answer to the first request."""

    async def again_and_again() -> Any:
        for _ in range(5):
            await gives_up()
        resolver.go_on.set()
        return await asyncio.get_running_loop().getaddrinfo("database", 5432)

    assert on_a_loop(resolver, again_and_again) == ANSWER
    assert [question[:2] for question in resolver.asked] == [("database", 5432)]


def test_a_hanging_lookup_does_not_block_another_host(resolver: Resolver) -> None:
    """A lookup hangs: a lookup of another host is sent at once."""

    async def both() -> None:
        await gives_up("old")
        await gives_up("new")

    on_a_loop(resolver, both)
    resolver.go_on.set()
    assert [question[0] for question in resolver.asked] == ["old", "new"]


def test_a_failed_lookup_is_repeated(resolver: Resolver) -> None:
    """A lookup fails: the next lookup of the same host is sent again and succeeds."""

    async def twice() -> Any:
        resolver.error = socket.gaierror(-2, "Name or service not known")
        resolver.go_on.set()
        with pytest.raises(socket.gaierror):
            await look_up()
        resolver.error = None
        return await look_up()

    assert on_a_loop(resolver, twice) == ANSWER
    assert len(resolver.asked) == 2


def test_the_default_resolver_is_the_system_s() -> None:
    """The event loop of the package resolves an address with the system's resolver."""

    async def here() -> Any:
        return await asyncio.get_running_loop().getaddrinfo("127.0.0.1", 5432, type=socket.SOCK_STREAM)

    assert run(here())[0][4] == ("127.0.0.1", 5432)
