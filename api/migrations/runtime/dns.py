"""Host name lookups in daemon threads.

A lookup cannot be cancelled. With a dead resolver it takes 10 s by default, and as long as `resolv.conf` says. Asyncio
runs lookups in an executor, whose threads delay the end of the loop and of the interpreter: a caller that timed out or
was cancelled would wait all the same.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` like `asyncio.run`, on a `ResolvingLoop`."""
    with asyncio.Runner(loop_factory=ResolvingLoop) as runner:
        return runner.run(work)


class ResolvingLoop(asyncio.SelectorEventLoop):
    """An event loop that does not wait for its lookups when it ends."""

    def __init__(self, look_up: Callable[..., Any] = socket.getaddrinfo) -> None:
        super().__init__()
        self._look_up = look_up
        self._lookups: dict[tuple[Any, ...], Future[Any]] = {}

    async def getaddrinfo(
        self, host: Any, port: Any, *, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0
    ) -> Any:
        """Return the result of `socket.getaddrinfo`; equal lookups share one thread.

        If the resolver takes longer than a connection may, the next attempt waits for the same lookup.
        """
        arguments = (host, port, family, type, proto, flags)
        lookup = self._lookups.get(arguments)
        if lookup is None or lookup.done():
            lookup = self._lookups[arguments] = Future()
            # running: a waiter that is cancelled must not cancel it for the others
            lookup.set_running_or_notify_cancel()
            # a daemon, unlike the threads of an executor: the interpreter does not wait for it
            threading.Thread(target=self._resolve, args=(lookup, arguments), name="resolver", daemon=True).start()
        return await asyncio.wrap_future(lookup, loop=self)

    def _resolve(self, lookup: Future[Any], arguments: tuple[Any, ...]) -> None:
        try:
            lookup.set_result(self._look_up(*arguments))
        except Exception as error:
            lookup.set_exception(error)
