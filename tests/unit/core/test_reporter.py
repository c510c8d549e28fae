"""What a run leaves behind in the status once it is over."""

import pytest

from api.migrations.core.reporter import ProgressReporter
from api.migrations.core.status import LastRun, Tracker


def last_run(result: str) -> LastRun:
    """A run that applied a and was at b when it ended."""
    tracker = Tracker(instance="one")
    reporter = ProgressReporter(tracker)
    reporter.planned(("a", "b"), "Applied")
    reporter.started("a")
    reporter.finished("a")
    reporter.started("b")
    reporter.ended(result, "boom" if result == "failed" else None)
    run = tracker.status.last_run
    assert run is not None
    return run


def test_each_applied_revision_has_its_duration() -> None:
    """In their order, so that a timeline can be drawn."""
    run = last_run("failed")
    assert (run.applied, len(run.seconds)) == (("a",), 1)
    assert run.seconds[0] >= 0


@pytest.mark.parametrize(("result", "failed"), [("failed", "b"), ("applied", None)])
def test_the_one_that_failed_is_named(result: str, failed: str | None) -> None:
    """And nothing is named where nothing failed."""
    assert last_run(result).failed == failed
