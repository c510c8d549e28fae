"""Executes the batches of a backfill, each in its own transaction, on the session that holds the lock.

Between two batches the run may be cancelled, the lock is checked, and other sessions get their turn. A batch that does
not acquire its row locks is retried with the schedule of table locks, while the batches before it stay committed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import sqlalchemy as sa
from alembic.runtime.migration import MigrationContext

from ..core.batches import LONGEST_SKIP_ROWS, BatchSize, as_note, pause_seconds, progress
from ..runtime.thread import wait_on_loop
from .batch_statements import BatchStatements, Key
from .error_translation import contended
from .history_table import Attempt
from .steps import Steps

log = logging.getLogger(__name__)

BEAT_SECONDS = 1.0
"""The longest part of a pause: after each one the lock is checked, because an idle session would be terminated."""
NOTE_EVERY_SECONDS = 2.0
"""How often the progress is recorded for other instances."""
ASK_LAG_EVERY_SECONDS = 1.0
_LAG = "SELECT extract(epoch FROM max(replay_lag))::float8 FROM pg_stat_replication"


class Batches:
    """The batches of one backfill in the transaction of the revision, where they cannot be committed.

    Rows that need no change are skipped: after a batch that filled none, larger and larger queries look for the next
    row to fill, so that a repeated backfill soon is where the first one was interrupted.
    """

    def __init__(self, connection: sa.Connection, statements: BatchStatements, size: BatchSize) -> None:
        self.filled = 0
        """The number of rows that were filled."""
        self._connection = connection
        self._statements = statements
        self._size = size
        self._passed = 0
        self._skipped = 0
        """The rows of the last batch or query that found no row to fill; 0 after a batch that did."""

    def run(self) -> int:
        """Fill all rows, and return how many were filled."""
        began, ends = time.monotonic(), self._statements.ends(self._connection)
        if ends is not None:
            start: Key | None = ends[0]
            while start is not None:
                start = (self._skip if self._skipped else self._batch)(start, ends[1])
        message, seconds = "Backfill of %s: filled %d rows in %.1f s", time.monotonic() - began
        extra = {"event": "backfill_finished", "table": self._statements.name, "rows": self.filled}
        log.info(message, self._statements.name, self.filled, seconds, extra=extra)
        return self.filled

    def _batch(self, start: Key, last: Key) -> Key | None:
        """Fill the batch at `start`; return the key after it, or `start` if it is to be tried again."""
        rows = self._size.rows
        end = self._statements.key_after(self._connection, start, rows, last)
        began = time.monotonic()
        filled = self._fill(start, end, last)
        if filled is None:
            return start
        seconds = time.monotonic() - began
        self._size = self._size.after(seconds)
        self._skipped = 0 if filled else rows
        self.filled += filled
        self._after(filled if end is None else rows, seconds)
        return end

    def _skip(self, start: Key, last: Key) -> Key | None:
        """Look for the next row to fill; return its key, or the key after the rows that need no change."""
        rows = min(2 * self._skipped, LONGEST_SKIP_ROWS)
        end = self._statements.key_after(self._connection, start, rows, last)
        first = self._statements.first_to_fill(self._connection, start, end, last)
        if first is None:
            self._skipped = rows
            self._after(0 if end is None else rows, 0.0)
            return end
        self._skipped = 0
        self._after(self._statements.count(self._connection, start, first), 0.0)
        return first

    def _fill(self, start: Key, end: Key | None, last: Key) -> int | None:
        """Execute a batch; return how many rows it filled, or None if it is to be tried again."""
        return self._statements.fill(self._connection, start, end, last)

    def _after(self, rows: int, seconds: float) -> None:
        """Continue after `rows` rows were passed in `seconds`."""
        self._passed += rows


class CommittedBatches(Batches):
    """The batches of one backfill in autocommit, each with its own COMMIT, for the open attempt of `steps`."""

    def __init__(
        self,
        connection: sa.Connection,
        statements: BatchStatements,
        batch_rows: int,
        steps: Steps,
        attempt: Attempt,
    ) -> None:
        timeout = steps.lock.schedule.limits(str(steps.current)).statement_timeout_seconds
        super().__init__(connection, statements, BatchSize.first(batch_rows, timeout))
        self._steps = steps
        self._attempt = attempt
        self._listener = steps.listener
        self._total = statements.estimate(connection)
        self._began = self._noted = time.monotonic()
        self._contended = False
        self._lag, self._least_lag, self._lag_asked = 0.0, float("inf"), float("-inf")

    def run(self) -> int:
        """Fill all rows, and return how many were filled.

        Raises:
            HoldLost: the lock was lost; no further batch was executed.
        """
        self._between()
        try:
            return super().run()
        finally:
            self._listener.progressed(None)

    def _fill(self, start: Key, end: Key | None, last: Key) -> int | None:
        try:
            return super()._fill(start, end, last)
        except sa.exc.DBAPIError as error:
            if self._connection.invalidated or not contended(error):
                raise
        self._size, self._contended = self._size.after_contention(), True
        revision, lock = str(self._steps.current), self._steps.lock
        attempt, seconds = lock.schedule.record_contention(revision)
        self._listener.contended(revision, attempt, seconds, None)
        self._pause(seconds)
        lock.set_limits(self._connection, revision)
        return None

    def _after(self, rows: int, seconds: float) -> None:
        super()._after(rows, seconds)
        if self._contended:
            self._contended = False
            self._steps.lock.schedule.forget(str(self._steps.current))
            self._steps.lock.set_limits(self._connection, str(self._steps.current))
        self._report()
        self._pause(pause_seconds(seconds, self._growth_of_lag()) if seconds else 0.0)

    def _report(self) -> None:
        now = time.monotonic()
        so_far = progress(self._statements.name, self._passed, self._total, self.filled, now - self._began)
        self._listener.progressed(so_far)
        if now - self._noted >= NOTE_EVERY_SECONDS:
            self._noted = now
            self._steps.history.note(self._connection, self._attempt, as_note(so_far))

    def _pause(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        self._between()
        while (left := end - time.monotonic()) > 0:
            wait_on_loop(partial(asyncio.sleep, min(left, BEAT_SECONDS)))
            self._between()

    def _between(self) -> None:
        wait_on_loop(self._listener.between)
        self._steps.check_lock()

    def _growth_of_lag(self) -> float:
        """Return by how many seconds the replicas lag further behind than at best; 0 if this role does not see it."""
        if self._connection.dialect.name != "postgresql":
            return 0.0  # MySQL's primary does not know
        now = time.monotonic()
        if now - self._lag_asked >= ASK_LAG_EVERY_SECONDS:
            self._lag_asked = now
            self._lag = self._connection.scalar(sa.text(_LAG)) or 0.0
            self._least_lag = min(self._lag, self._least_lag)
        return self._lag - self._least_lag


@contextmanager
def committing(context: MigrationContext, steps: Steps) -> Iterator[Attempt]:
    """Leave the revision's transaction: each statement inside is committed, and is not followed. Yield the attempt.

    Raises:
        InvalidRequestError: the revision may not be run again after an interruption.
        DirectConnectionNeeded: a transaction pooler permits no COMMIT inside the run.
    """
    attempt = steps.open_attempt.attempt
    if attempt is None or attempt.revision not in steps.code.idempotent:
        raise sa.exc.InvalidRequestError(
            "backfill() commits each batch, but the revision does not declare that it may run again after an "
            "interruption. To fix: add idempotent = True to its file, and let all that it does be repeatable"
        )
    attempt.statement = "UPDATE"
    with context.autocommit_block(), steps.open_attempt.unwatched():
        yield attempt
