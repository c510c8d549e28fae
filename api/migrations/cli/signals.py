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
    """Cancels the run at SIGINT and SIGTERM, which rolls it back; exits if that takes too long.

    `received` is the signal's number, or 0.
    """

    def __init__(self) -> None:
        self.received = 0
        self._give_up = float("inf")
        self._thread: MigrationThread | None = None

    def cancelling(self, thread: MigrationThread) -> Signals:
        """Cancel `thread`, for a `with`."""
        self._thread = thread
        return self

    def __enter__(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._handle)

    def __exit__(self, *_: object) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.default_int_handler)

    def enforce(self) -> None:
        """End the process if the run does not end."""
        if time.monotonic() > self._give_up:
            name = signal.Signals(self.received).name
            message = "Cancelled: stopped by %s; the run did not stop in time, the server rolls it back"
            log.error(message, name, extra={"event": "not_stopped"})
            os._exit(128 + self.received)

    def explain(self, error: BaseException) -> NoReturn:
        """Say why the run ended without an error of its own."""
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
