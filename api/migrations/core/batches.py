"""How large the next batch of a backfill is, how long the pause before it is, and how its progress is recorded.

Decides only: `execution.batch_run` executes the batches and sleeps.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace

from .status import Statement

SHORTEST_SECONDS, LONGEST_SECONDS = 0.2, 0.5
"""A batch that lasts so long keeps its size."""
LEAST_ROWS = 100
FIRST_SHARE = 10
"""The first batch has this part of the largest one's rows, because nothing is known of the table yet."""
LONGEST_SKIP_ROWS = 200_000
"""The most rows among which one query looks for a row to fill."""
LONGEST_PAUSE_SECONDS = 1.0
TOLERATED_LAG_SECONDS, LONGEST_LAG_PAUSE_SECONDS = 1.0, 10.0
_KEY = "batches"


@dataclass(frozen=True)
class BatchSize:
    """The rows of the next batch, at most `most`; a statement timeout of `timeout_seconds` shortens the batches."""

    most: int
    rows: int
    timeout_seconds: float = 0.0

    @classmethod
    def first(cls, most: int, timeout_seconds: float = 0.0) -> BatchSize:
        """Return the size of the first batch."""
        return cls(most, min(most, max(LEAST_ROWS, most // FIRST_SHARE)), timeout_seconds)

    @property
    def longest_seconds(self) -> float:
        """The longest time of a batch or query that keeps its size."""
        return min(LONGEST_SECONDS, self.timeout_seconds / 4) if self.timeout_seconds else LONGEST_SECONDS

    def after(self, seconds: float) -> BatchSize:
        """Return the size after a batch that took `seconds`; at most twice, and at least half of the one before."""
        longest = self.longest_seconds
        shortest = longest * SHORTEST_SECONDS / LONGEST_SECONDS
        if shortest <= seconds <= longest:
            return self
        factor = min(2.0, max(0.5, longest / max(seconds, 0.001)))
        return replace(self, rows=min(self.most, max(min(LEAST_ROWS, self.most), int(self.rows * factor))))

    def after_contention(self) -> BatchSize:
        """Return the size after a batch that did not acquire its row locks: fewer rows meet fewer other sessions."""
        return self.after(float("inf"))


def pause_seconds(batch_seconds: float, lag_seconds: float) -> float:
    """Return the pause after a batch: as long as the batch, and longer while the replicas lag further behind.

    `lag_seconds` is how far the replicas are behind, beyond what they were before.
    """
    pause = min(batch_seconds, LONGEST_PAUSE_SECONDS)
    if lag_seconds > TOLERATED_LAG_SECONDS:
        pause += min(lag_seconds, LONGEST_LAG_PAUSE_SECONDS)
    return pause


def progress(table: str, rows: int, total: int | None, filled: int, seconds: float) -> Statement:
    """Return the progress of a backfill that has passed `rows` rows, and has filled `filled` of them in `seconds`."""
    total = None if total is None else max(total, rows)
    percent = None if not total else round(100 * rows / total, 1)
    rate = round(filled / seconds, 1) if seconds > 0 else None
    return Statement("UPDATE", f"backfill of {table}", percent, rows=rows, total_rows=total, rows_per_second=rate)


def as_note(progress: Statement) -> str:
    """Return the progress for the history table, in which other instances read it."""
    return json.dumps({_KEY: asdict(progress)})


def from_note(note: str | None) -> Statement | None:
    """Return the progress in a note of the history table, if it has any."""
    try:
        return Statement(**json.loads(note or "{}")[_KEY])
    except (ValueError, KeyError, TypeError):  # another release records something else
        return None
