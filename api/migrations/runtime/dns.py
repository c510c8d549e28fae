"""Host names looked up in threads that nobody has to wait for.

A lookup cannot be cancelled: with a dead resolver it takes 10 s by default, and as long as `resolv.conf` likes. asyncio
runs it in a thread that loop and interpreter wait for at their end, so that whoever gave up, or was told to stop, would
stay for just as long.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

Question = tuple[Any, ...]
T = TypeVar("T")


def run(work: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run` on a loop of this kind."""
    with asyncio.Runner(loop_factory=ResolvingLoop) as runner:
        return runner.run(work)


class ResolvingLoop(asyncio.SelectorEventLoop):
    """An event loop whose lookups are left alone when nobody waits for them any more."""

    def __init__(self, look_up: Callable[..., Any] = socket.getaddrinfo) -> None:
        super().__init__()
        self._look_up = look_up
        self._asked: dict[Question, Future[Any]] = {}

    async def getaddrinfo(
        self, host: Any, port: Any, *, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0
    ) -> Any:
        """`socket.getaddrinfo`; whoever asks what is being asked already gets the same answer.

        So there is one thread for each host at most, and a resolver that takes longer than a connection may is waited
        for by the next try.
        """
        question = (host, port, family, type, proto, flags)
        answer = self._asked.get(question)
        if answer is None or answer.done():
            answer = self._asked[question] = self._ask(question)
        return await asyncio.wrap_future(answer, loop=self)

    def _ask(self, question: Question) -> Future[Any]:
        answer: Future[Any] = Future()
        # somebody who no longer waits must not cancel it for the others
        answer.set_running_or_notify_cancel()
        # a daemon, unlike the threads of an executor: the interpreter does not wait for it
        threading.Thread(target=self._answer, args=(answer, question), name="resolver", daemon=True).start()
        return answer

    def _answer(self, answer: Future[Any], question: Question) -> None:
        try:
            answer.set_result(self._look_up(*question))
        except Exception as error:
            answer.set_exception(error)
