"""SIGINT and SIGTERM during a command."""

from __future__ import annotations

import logging
import os
import signal
import time
from typing import NoReturn

from ..errors import Cancelled, MigrationError
from ..execution.error_translation import describe
from ..runtime.thread import MigrationThread

log = logging.getLogger(__name__)

CANCEL_SECONDS = 1.5
"""How long the rollback may take after a signal; then the process exits, and the server rolls back."""


class Signals:
    """Cancels the run at SIGINT and SIGTERM; exits if the rollback exceeds CANCEL_SECONDS. `received`: signal or 0."""

    def __init__(self) -> None:
        self.received = 0
        self._give_up = float("inf")
        self._thread: MigrationThread | None = None

    def cancelling(self, thread: MigrationThread) -> Signals:
        """Return a context manager that cancels `thread` at a signal."""
        self._thread = thread
        return self

    def __enter__(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._handle)

    def __exit__(self, *_: object) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.default_int_handler)

    def enforce(self) -> None:
        """Exit if the run has not stopped in time after a signal."""
        if time.monotonic() > self._give_up:
            name = signal.Signals(self.received).name
            message = "Cancelled: stopped by %s; the run did not stop in time, the server rolls it back"
            log.error(message, name, extra={"event": "not_stopped"})
            os._exit(128 + self.received)

    def explain(self, error: BaseException) -> NoReturn:
        """Raise `Cancelled` if a signal stopped the run; report any other `error` as a bug of this package."""
        if self.received:
            name = signal.Signals(self.received).name
            raise Cancelled(f"stopped by {name}; what was not committed is rolled back, the lock is free") from None
        log.error("This is a bug in the migrations package", exc_info=error, extra={"event": "bug"})
        raise MigrationError(f"unexpected: {describe(error)}") from error

    def _handle(self, number: int, _frame: object) -> None:
        self.received = number
        self._give_up = min(self._give_up, time.monotonic() + CANCEL_SECONDS)
        if self._thread is not None:
            self._thread.cancel()
