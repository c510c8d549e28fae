"""SIGTERM reaches the server only after a drain, in which the instance is unready and serves."""

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator

import pytest
from starlette.types import Receive, Scope, Send

from api.migrations.core.status import Phase, Tracker
from api.migrations.web.drain import draining
from api.migrations.web.gate import Gate
from tests.support.waiting import FOREVER_SECONDS, until

LONG_SECONDS = 3600.0
KEPT = [(b"connection", b"keep-alive")]


class Server:
    """The server's handler of SIGTERM; `stopped` is set when it receives the signal."""

    def __init__(self) -> None:
        self.received: list[int] = []
        self.stopped = asyncio.Event()

    def handle(self, number: int, _frame: object) -> None:
        """Handle the signal."""
        self.received.append(number)
        self.stopped.set()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    """Install a server's handler of SIGTERM."""
    server = Server()
    before = signal.signal(signal.SIGTERM, server.handle)
    yield server
    signal.signal(signal.SIGTERM, before)


async def served(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer 200, as an event stream does."""
    await send({"type": "http.response.start", "status": 200, "headers": KEPT})


def instance(phase: Phase = Phase.READY) -> tuple[Gate, Tracker]:
    """Return an open gate and its tracker."""
    tracker = Tracker(phase=phase)
    gate = Gate(served, lambda: tracker.status, ())
    gate.open()
    return gate, tracker


async def headers(gate: Gate, http_version: str = "1.1") -> list[tuple[bytes, bytes]]:
    """Return the headers of an answer through the gate."""
    sent: list[list[tuple[bytes, bytes]]] = []

    async def send(message: dict[str, list[tuple[bytes, bytes]]]) -> None:
        sent.append(message["headers"])

    await gate({"type": "http", "path": "/", "http_version": http_version}, None, send)  # type: ignore[arg-type]
    return sent[0]


async def until_draining(*trackers: Tracker) -> None:
    """Send SIGTERM to this process and wait until the instances drain."""

    async def draining_all() -> bool:
        return all(tracker.status.phase is Phase.DRAINING for tracker in trackers)

    os.kill(os.getpid(), signal.SIGTERM)
    await until(draining_all, "the instances drain")


@pytest.mark.parametrize("phase", [Phase.READY, Phase.OFF])
async def test_sigterm_makes_a_ready_instance_unready_and_not_stop(server: Server, phase: Phase) -> None:
    """SIGTERM reaches a ready instance: it is unready and says why, it serves, and the server has no signal yet."""
    gate, tracker = instance(phase)
    with draining(gate, tracker, LONG_SECONDS):
        await until_draining(tracker)
        assert not tracker.status.ready
        assert tracker.status.message == "SIGTERM received: not ready any more, serves for 3600 s and then shuts down"
        assert gate.is_open
        assert server.received == []


async def test_answers_end_their_connections_while_it_drains(server: Server) -> None:
    """While it drains, an answer of HTTP/1.1 has `Connection: close`; one of HTTP/2, which forbids it, stays."""
    gate, tracker = instance()
    with draining(gate, tracker, LONG_SECONDS):
        assert await headers(gate) == KEPT
        await until_draining(tracker)
        assert await headers(gate) == [(b"connection", b"close")]
        assert await headers(gate, "2") == KEPT
    assert await headers(gate) == KEPT


async def test_the_server_gets_the_signal_after_the_drain(server: Server) -> None:
    """The drain ends: the server gets SIGTERM, once."""
    gate, tracker = instance()
    with draining(gate, tracker, 0.01):
        await until_draining(tracker)
        await asyncio.wait_for(server.stopped.wait(), FOREVER_SECONDS)
    assert server.received == [signal.SIGTERM]


async def test_a_second_sigterm_ends_the_drain(server: Server) -> None:
    """A second SIGTERM reaches the server at once, and the end of the drain adds none."""
    with draining(*instance(), 0.01):
        for _ in range(2):
            signal.raise_signal(signal.SIGTERM)
        assert server.received == [signal.SIGTERM]
        later = asyncio.Event()
        asyncio.get_running_loop().call_later(0.05, later.set)
        await later.wait()
    assert server.received == [signal.SIGTERM]


async def test_the_server_has_its_handler_back_afterwards(server: Server) -> None:
    """After the block SIGTERM reaches the server at once; a handler that the application installed since then stays."""
    with draining(*instance(), LONG_SECONDS):
        assert signal.getsignal(signal.SIGTERM) != server.handle
    assert signal.getsignal(signal.SIGTERM) == server.handle
    with draining(*instance(), LONG_SECONDS):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN


async def test_applications_of_one_process_drain_together(server: Server) -> None:
    """A mounted application drains with the one around it, for one drain and not for two."""
    (outer, outside), (inner, inside) = instance(), instance()
    with draining(inner, inside, 0.01), draining(outer, outside, LONG_SECONDS):
        await until_draining(outside, inside)
        await asyncio.wait_for(server.stopped.wait(), FOREVER_SECONDS)
    assert server.received == [signal.SIGTERM]


async def test_another_thread_leaves_the_signal_alone(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    """In a server outside the main thread, which cannot handle signals, the setting has no effect and a warning."""

    async def serve() -> None:
        with draining(*instance(), LONG_SECONDS):
            assert signal.getsignal(signal.SIGTERM) == server.handle

    await asyncio.to_thread(asyncio.run, serve())
    assert "no effect: only the main thread can handle signals" in caplog.text
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


@pytest.mark.parametrize("own", ["loop", "default"])
async def test_a_handler_that_cannot_be_delayed_stays(
    server: Server, caplog: pytest.LogCaptureFixture, own: str
) -> None:
    """A server that uses the loop's handlers, or none, stops at once; the setting has no effect and a warning."""
    if own == "loop":
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, server.stopped.set)
    else:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    before = signal.getsignal(signal.SIGTERM)
    try:
        with draining(*instance(), LONG_SECONDS):
            assert signal.getsignal(signal.SIGTERM) == before
    finally:
        asyncio.get_running_loop().remove_signal_handler(signal.SIGTERM)
    assert "no effect: this server has no handler of SIGTERM that can be delayed" in caplog.text
