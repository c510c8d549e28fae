"""Lookups that hang: the loop does not wait for them, and an equal lookup is not sent twice."""

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


def test_the_loop_ends_without_the_lookup(resolver: Resolver) -> None:
    """Asyncio's own loop would wait for it."""
    on_a_loop(resolver, gives_up)
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "resolver"]
    assert thread.daemon
    resolver.go_on.set()
    thread.join(FOREVER_SECONDS)
    assert not thread.is_alive()


def test_who_asks_again_gets_the_answer_to_the_first_question(resolver: Resolver) -> None:
    """Several tries share one thread, and its late answer counts."""

    async def again_and_again() -> Any:
        for _ in range(5):
            await gives_up()
        resolver.go_on.set()
        return await asyncio.get_running_loop().getaddrinfo("database", 5432)

    assert on_a_loop(resolver, again_and_again) == ANSWER
    assert [question[:2] for question in resolver.asked] == [("database", 5432)]


def test_another_host_is_another_question(resolver: Resolver) -> None:
    """A lookup that hangs does not block the next one."""

    async def both() -> None:
        await gives_up("old")
        await gives_up("new")

    on_a_loop(resolver, both)
    resolver.go_on.set()
    assert [question[0] for question in resolver.asked] == ["old", "new"]


def test_an_error_is_an_answer_and_the_next_question_a_new_one(resolver: Resolver) -> None:
    """A name that is unknown now may be known later."""

    async def twice() -> Any:
        resolver.error = socket.gaierror(-2, "Name or service not known")
        resolver.go_on.set()
        with pytest.raises(socket.gaierror):
            await look_up()
        resolver.error = None
        return await look_up()

    assert on_a_loop(resolver, twice) == ANSWER
    assert len(resolver.asked) == 2


def test_the_system_s_resolver_is_asked() -> None:
    """The default lookup is that of the system."""

    async def here() -> Any:
        return await asyncio.get_running_loop().getaddrinfo("127.0.0.1", 5432, type=socket.SOCK_STREAM)

    assert run(here())[0][4] == ("127.0.0.1", 5432)
