"""Draining: between SIGTERM and the server's shutdown a ready instance is unready and serves on.

Uvicorn closes its port at SIGTERM, but a balancer sends requests until its next probe has failed. So the server gets
the signal later, after `MIGRATION_DRAIN_SECONDS`. Until then readiness answers 503, and each answer ends its
connection. The server then finishes the requests in flight.

An instance that is not ready gets no requests, so it does not drain: the server gets SIGTERM at once, and a run is
rolled back. SIGINT is never delayed, and a second SIGTERM ends the draining.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..core.status import Phase, Tracker
from .gate import Gate

log = logging.getLogger(__name__)

Handler = Callable[[int, Any], Any]

_NO_EFFECT = (
    "MIGRATION_DRAIN_SECONDS has no effect: %s. To fix: use uvicorn, or gunicorn with uvicorn's worker, or a pause "
    "before SIGTERM, such as a preStop hook"
)


@contextmanager
def draining(gate: Gate, tracker: Tracker, seconds: float) -> Iterator[None]:
    """Delay SIGTERM by `seconds` inside the block, in which the instance is ready; log a warning if that is impossible.

    Must be entered on the loop that serves. Applications of one process drain together: one runs another's lifespan.
    """
    server = signal.getsignal(signal.SIGTERM)
    running = getattr(server, "__self__", None)
    if isinstance(running, _Drain):
        with running.including(gate, tracker):
            yield
        return
    if obstacle := _obstacle(server):
        log.warning(_NO_EFFECT, obstacle, extra={"event": "no_drain"})
        yield
        return
    assert callable(server)
    drain = _Drain(server, seconds)
    signal.signal(signal.SIGTERM, drain.handle)
    try:
        with drain.including(gate, tracker):
            yield
    finally:
        drain.stop()
        # a handler that the application has installed since then stays
        if signal.getsignal(signal.SIGTERM) == drain.handle:
            signal.signal(signal.SIGTERM, server)


def _obstacle(server: object) -> str | None:
    if threading.current_thread() is not threading.main_thread():
        return "only the main thread can handle signals, and the server runs in another one"
    # a loop's own handlers run whatever the handler that Python calls does
    if not callable(server) or str(getattr(server, "__module__", "")).startswith(("asyncio", "uvloop")):
        return "this server has no handler of SIGTERM that can be delayed"
    return None


class _Drain:
    def __init__(self, server: Handler, seconds: float) -> None:
        self._server = server
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        # the signal interrupts any task, and the log lines name the instance of this one
        self._context = copy_context()
        self._begun = False
        self._over = False
        self._applications: list[tuple[Gate, Tracker]] = []

    @contextmanager
    def including(self, gate: Gate, tracker: Tracker) -> Iterator[None]:
        application, within = (gate, tracker), gate.app
        self._applications.append(application)
        try:
            yield
        finally:
            self._applications.remove(application)
            gate.app = within

    def handle(self, number: int, frame: Any) -> None:
        if self._begun:
            self._over = True
            self._server(number, frame)
        else:
            self._begun = True
            # not here, because the signal may have interrupted code that holds the lock of the tracker or the log
            self._loop.call_soon_threadsafe(self._begin, context=self._context)

    def stop(self) -> None:
        self._over = True

    def _begin(self) -> None:
        # first, because whatever fails below, the server gets its signal
        self._loop.call_later(self._seconds, self._end)
        message = f"SIGTERM received: not ready any more, serves for {self._seconds:g} s and then shuts down"
        for gate, tracker in self._applications:
            tracker.move(Phase.DRAINING, message=message)
            gate.app = _closing(gate.app)
        log.info(message, extra={"event": "draining"})

    def _end(self) -> None:
        # else a second signal or SIGINT has ended it
        if not self._over:
            self._over = True
            self._server(signal.SIGTERM, None)


def _closing(application: ASGIApp) -> ASGIApp:
    """Return `application`, whose answers end their connections: the balancer's next request uses another one."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_closing(message: Message) -> None:
            if message["type"] == "http.response.start":
                # an event stream may have asked to keep it
                headers = [header for header in message.get("headers", ()) if header[0].lower() != b"connection"]
                message = {**message, "headers": [*headers, (b"connection", b"close")]}
            await send(message)

        # HTTP/2 forbids the header
        closes = scope["type"] == "http" and scope.get("http_version", "1.1").startswith("1")
        await application(scope, receive, send_closing if closes else send)

    return answer
