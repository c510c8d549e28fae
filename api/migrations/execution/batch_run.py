"""Executes the batches of a backfill, each in its own transaction, on the session that holds the lock.

Between two batches the run may be cancelled, the lock is checked, and other sessions get their turn. A batch that does
not acquire its locks is retried with the schedule of table locks, while the batches before it stay committed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

import sqlalchemy as sa
from alembic.runtime.migration import MigrationContext

from ..core.batches import LONGEST_SKIP_ROWS, BatchSize, as_note, pause_seconds, progress
from ..runtime.thread import wait_on_loop
from .batch_statements import BatchStatements, Key
from .dialects import replica_lag_seconds
from .error_translation import contended
from .history_table import Attempt
from .steps import Steps

log = logging.getLogger(__name__)

T = TypeVar("T")
BEAT_SECONDS = 1.0
"""The longest part of a pause: after each one the lock is checked, because an idle session would be terminated."""
NOTE_EVERY_SECONDS = 2.0
"""How often the progress is recorded for other instances."""
ASK_LAG_EVERY_SECONDS = 1.0


class Batches:
    """The batches of one backfill in the transaction of the revision, where they cannot be committed.

    Rows that need no change are skipped: after a batch that filled none, larger and larger queries look for the next
    row to fill, so that a repeated backfill soon is where the first one was interrupted.
    """

    def __init__(self, connection: sa.Connection, statements: BatchStatements, size: BatchSize) -> None:
        self.passed = 0
        """The number of rows up to the next batch."""
        self.filled = 0
        """The number of rows that were filled."""
        self._connection = connection
        self._statements = statements
        self._size = size
        self._skipped = 0
        """The rows of the last batch or query that found no row to fill; 0 after a batch that did."""

    def run(self) -> int:
        """Fill all rows, and return how many were filled."""
        began, ends = time.monotonic(), self._done(partial(self._statements.ends, self._connection))
        start, last = ends or (None, ())
        while start is not None:
            step = self._skip if self._skipped else self._batch
            start, seconds = self._done(partial(step, start, last))
            self._between_batches(seconds)
        extra = {"event": "backfill_finished", "table": self._statements.name, "rows": self.filled}
        seconds = time.monotonic() - began
        log.info("Backfill of %s: filled %d rows in %.1f s", self._statements.name, self.filled, seconds, extra=extra)
        return self.filled

    def _batch(self, start: Key, last: Key) -> tuple[Key | None, float]:
        """Fill the batch at `start`; return the key after it, and how long its UPDATE took."""
        rows = self._size.rows
        end = self._statements.key_after(self._connection, start, rows, last)
        began = time.monotonic()
        filled = self._statements.fill(self._connection, start, end, last)
        seconds = time.monotonic() - began
        self._size = self._size.after(seconds)
        self._skipped = 0 if filled else rows
        self.filled += filled
        self.passed += filled if end is None else rows
        return end, seconds

    def _skip(self, start: Key, last: Key) -> tuple[Key | None, float]:
        """Look for the next row to fill; return its key, or the key after the rows that need no change."""
        rows = min(2 * self._skipped, LONGEST_SKIP_ROWS)
        began = time.monotonic()
        end = self._statements.key_after(self._connection, start, rows, last)
        first = self._statements.first_to_fill(self._connection, start, end, last)
        if first is None:
            # after a slow one half as many, else a statement timeout would end each repetition here
            slow = time.monotonic() - began > self._size.longest_seconds
            self._skipped = max(self._size.rows // 2, rows // 4, 1) if slow else rows
            self.passed += 0 if end is None else rows
            return end, 0.0
        self.passed += self._statements.count(self._connection, start, first)
        self._skipped = 0
        return first, 0.0

    def _done(self, step: Callable[[], T]) -> T:
        """Return the result of a step."""
        return step()

    def _between_batches(self, seconds: float) -> None:
        """Continue after a batch that took `seconds`; 0 after a query."""


class CommittedBatches(Batches):
    """The batches of one backfill in autocommit, each with its own COMMIT, for an open `attempt` of `steps`."""

    def __init__(
        self,
        connection: sa.Connection,
        statements: BatchStatements,
        batch_rows: int,
        steps: Steps,
        attempt: Attempt,
    ) -> None:
        self._schedule = steps.lock.schedule
        timeout = self._schedule.limits(attempt.revision).statement_timeout_seconds
        super().__init__(connection, statements, BatchSize.first(batch_rows, timeout))
        self._steps = steps
        self._attempt = attempt
        self._listener = steps.listener
        self._total: int | None = None
        self._began, self._noted = time.monotonic(), float("-inf")
        self._lag, self._least_lag, self._lag_asked = 0.0, float("inf"), float("-inf")

    def run(self) -> int:
        """Fill all rows, and return how many were filled.

        Raises:
            HoldLost: the lock was lost; no further batch was executed.
        """
        self._check()
        self._total = self._statements.estimate(self._connection)
        try:
            return super().run()
        finally:
            self._listener.progressed(None)

    def _done(self, step: Callable[[], T]) -> T:
        """Return the result of a step, which is retried until it has acquired its locks."""
        was_contended = False
        while True:
            try:
                result = step()
            except sa.exc.DBAPIError as error:
                if self._connection.invalidated or not contended(error):
                    raise
                was_contended = True
                self._stand_back()
                continue
            if was_contended:
                self._schedule.forget(self._attempt.revision)
                self._steps.lock.set_limits(self._connection, self._attempt.revision)
            return result

    def _stand_back(self) -> None:
        """Pause after a step that did not acquire its locks, and make the next batch smaller."""
        self._size = self._size.after_contention()
        number, seconds = self._schedule.record_contention(self._attempt.revision)
        self._listener.contended(self._attempt.revision, number, seconds, None)
        self._pause(seconds)
        self._steps.lock.set_limits(self._connection, self._attempt.revision)

    def _between_batches(self, seconds: float) -> None:
        now = time.monotonic()
        so_far = progress(self._statements.name, self.passed, self._total, self.filled, now - self._began)
        self._listener.progressed(so_far)
        if now - self._noted >= NOTE_EVERY_SECONDS:
            self._noted = now
            self._done(partial(self._steps.history.note, self._connection, self._attempt, as_note(so_far)))
        self._pause(pause_seconds(seconds, self._growth_of_lag()) if seconds else 0.0)

    def _pause(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        self._check()
        while (left := end - time.monotonic()) > 0:
            wait_on_loop(partial(asyncio.sleep, min(left, BEAT_SECONDS)))
            self._check()

    def _check(self) -> None:
        wait_on_loop(self._listener.between)
        self._steps.check_lock()

    def _growth_of_lag(self) -> float:
        """Return by how many seconds the replicas lag further behind than at best."""
        now = time.monotonic()
        if now - self._lag_asked >= ASK_LAG_EVERY_SECONDS:
            self._lag_asked = now
            self._lag = replica_lag_seconds(self._connection)
            self._least_lag = min(self._lag, self._least_lag)
        return self._lag - self._least_lag


def repeatable_attempt(steps: Steps) -> Attempt:
    """Return the open attempt; raise `InvalidRequestError` if its revision may not be run again when interrupted."""
    attempt = steps.open_attempt.attempt
    if attempt is None or attempt.revision not in steps.code.idempotent:
        raise sa.exc.InvalidRequestError(
            "backfill() commits each batch, but the revision does not declare that it may run again after an "
            "interruption. To fix: add idempotent = True to its file, and let all that it does be repeatable"
        )
    return attempt


@contextmanager
def committing(context: MigrationContext, steps: Steps, attempt: Attempt) -> Iterator[None]:
    """Leave the revision's transaction: each statement inside is committed, and is not followed.

    Raises:
        DirectConnectionNeeded: a transaction pooler permits no COMMIT inside the run.
    """
    attempt.statement = "UPDATE"
    with context.autocommit_block(), steps.open_attempt.unwatched():
        yield
