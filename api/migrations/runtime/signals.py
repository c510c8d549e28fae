"""SIGINT and SIGTERM during a command."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import wait
from contextlib import contextmanager
from typing import TypeVar

from .thread import MigrationThread

T = TypeVar("T")

log = logging.getLogger(__name__)

CANCEL_SECONDS = 1.5
"""How long the rollback may take after a signal; then the process exits, and the server rolls back."""


class Signals:
    """Cancels the run at SIGINT and SIGTERM; exits if the rollback exceeds CANCEL_SECONDS. `received`: signal or 0."""

    def __init__(self) -> None:
        self.received = 0
        self._give_up = float("inf")
        self._thread: MigrationThread | None = None

    def run(self, work: Callable[[], Awaitable[T]], tick: Callable[[], None] = lambda: None) -> T:
        """Run `work` in a thread while this one handles the signals and calls `tick`; the errors are those of `work`.

        Python handles signals in the main thread only: in another one they do not stop the run.
        """
        results: list[T] = []

        async def keep_result() -> None:
            results.append(await work())

        self._thread = MigrationThread(keep_result)
        with self._handling():
            self._thread.start()
            while not wait({self._thread.outcome}, timeout=0.1).done:
                tick()
                self._enforce()
        self._thread.outcome.result()
        return results[0]

    @contextmanager
    def _handling(self) -> Iterator[None]:
        is_main = threading.current_thread() is threading.main_thread()
        numbers = (signal.SIGINT, signal.SIGTERM) if is_main else ()
        before = {number: signal.signal(number, self._handle) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler or signal.SIG_DFL)

    def _enforce(self) -> None:
        if time.monotonic() > self._give_up:
            name = signal.Signals(self.received).name
            message = "Cancelled: stopped by %s; the run did not stop in time, the server rolls it back"
            log.error(message, name, extra={"event": "not_stopped"})
            os._exit(128 + self.received)

    def _handle(self, number: int, _frame: object) -> None:
        self.received = number
        self._give_up = min(self._give_up, time.monotonic() + CANCEL_SECONDS)
        if self._thread is not None:
            self._thread.cancel()
