"""The pure decisions of a backfill: the size of the next batch, the pause before it, and its progress for others."""

import pytest

from api.migrations.core.batches import (
    LEAST_ROWS,
    LONGEST_LAG_PAUSE_SECONDS,
    LONGEST_PAUSE_SECONDS,
    BatchSize,
    as_note,
    from_note,
    pause_seconds,
    progress,
)
from api.migrations.core.status import Statement


def after(*seconds: float, most: int = 5_000, timeout_seconds: float = 0.0) -> int:
    """Return the rows of the batch that follows batches of these durations."""
    size = BatchSize.first(most, timeout_seconds)
    for one in seconds:
        size = size.after(one)
    return size.rows


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (after(), 500),
        (after(0.01), 1_000),
        (after(*[0.01] * 9), 5_000),
        (after(0.2), 500),
        (after(0.5), 500),
        (after(0.8), 312),
        (after(60.0), 250),
        (after(*[60.0] * 9), LEAST_ROWS),
        (after(*[60.0] * 9, most=20), 20),
        (after(0.01, most=20), 20),
        (after(0.4, timeout_seconds=0.4), 250),
        (after(0.08, timeout_seconds=0.4), 500),
        (after(0.4, timeout_seconds=60.0), 500),
    ],
)
def test_the_batch_grows_and_shrinks_towards_its_duration(rows: int, expected: int) -> None:
    """A batch of 0.2 to 0.5 s keeps its size, which otherwise at most doubles or halves, between 100 and the most."""
    assert rows == expected


def test_a_batch_without_its_locks_is_halved() -> None:
    """After a batch that did not acquire its row locks, the next one has half the rows."""
    assert BatchSize(5_000, 4_000).after_contention().rows == 2_000


@pytest.mark.parametrize(
    ("batch", "lag", "expected"),
    [
        (0.3, 0.0, 0.3),
        (60.0, 0.0, LONGEST_PAUSE_SECONDS),
        (0.3, 0.9, 0.3),
        (0.3, 4.0, 4.3),
        (0.3, 3600.0, 0.3 + LONGEST_LAG_PAUSE_SECONDS),
    ],
)
def test_the_pause_grows_with_the_batch_and_the_lag(batch: float, lag: float, expected: float) -> None:
    """The pause is as long as the batch, up to a limit, and longer by the lag of the replicas, up to a limit."""
    assert pause_seconds(batch, lag) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("statement", "text"),
    [
        (
            progress("postings", 1_250_000, 5_000_000, 1_000_000, 50.0),
            "UPDATE, backfill of postings 25 %: 1,250,000 of about 5,000,000 rows, 20,000 rows/s",
        ),
        (progress("postings", 10, None, 0, 0.0), "UPDATE, backfill of postings: 10 rows, 0 rows/s"),
        (
            progress("postings", 300, 200, 300, 1.0),
            "UPDATE, backfill of postings 100 %: 300 of about 300 rows, 300 rows/s",
        ),
    ],
    ids=["estimated", "without statistics", "more rows than estimated"],
)
def test_the_progress_is_a_line_for_people(statement: Statement, text: str) -> None:
    """The progress says the table, the rows passed and the estimated total, and how many are filled in a second."""
    assert str(statement) == text


def test_other_instances_read_the_progress_in_a_note() -> None:
    """A note of the history table has the progress; any other note has none."""
    statement = progress("postings", 1_250_000, 5_000_000, 1_000_000, 50.0)
    assert from_note(as_note(statement)) == statement
    others = [None, "", "taken to a file", '{"retry": {}}', '{"batches": {"of a later release": 1}}', "[]", "7"]
    assert [from_note(note) for note in others] == [None] * len(others)
