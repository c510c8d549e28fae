"""What the status tells about a run after its end."""

import pytest

from api.migrations.core.batches import progress
from api.migrations.core.reporter import ProgressReporter
from api.migrations.core.status import LastRun, LockStatus, Phase, Progress, Statement, Tracker


def last_run(result: str) -> LastRun:
    """Return the last run of an instance that applied revision a and was running b at its end."""
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


def test_the_last_run_has_a_duration_for_each_applied_revision() -> None:
    """The last run lists the applied revisions in their order, each with its duration in seconds."""
    run = last_run("failed")
    assert (run.applied, len(run.seconds)) == (("a",), 1)
    assert run.seconds[0] >= 0


@pytest.mark.parametrize(("result", "failed"), [("failed", "b"), ("applied", None)])
def test_the_last_run_names_the_failed_revision(result: str, failed: str | None) -> None:
    """The last run names the revision that failed, and none if the run succeeded."""
    assert last_run(result).failed == failed


def test_a_retried_run_has_begun_with_its_first_attempt() -> None:
    """A run that waits for a table and continues keeps its start; one that follows another instance's run does not."""
    tracker = Tracker(progress=Progress(0, 1, "a", started_at=10.0))
    tracker.note(phase=Phase.MIGRATING, since=100.0)
    reporter = ProgressReporter(tracker)
    reporter.planned(("a",), "Applied")
    first = tracker.status.progress.started_at
    assert first is not None
    assert first > 100.0
    tracker.note(progress=Progress(0, 1, "a", started_at=101.0))
    reporter.planned(("a",), "Applied")
    assert tracker.status.progress.started_at == 101.0


def test_the_progress_of_batches_is_shown_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The status shows the batches as the statement, whatever the server is executing, and the log once in 10 s."""
    tracker = Tracker(progress=Progress(0, 1, "r1"))
    reporter = ProgressReporter(tracker)
    first, second = (progress("postings", rows, 1_000, rows, 1.0) for rows in (100, 200))
    with caplog.at_level("INFO"):
        reporter.progressed(first)
        reporter.progressed(second)
    assert [record.message for record in caplog.records] == [f"r1: {first}"]
    reporter.observed(LockStatus(statement=Statement("SELECT")))
    assert tracker.status.lock_status.statement == second
    reporter.contended("r1", 1, 0.5, None)
    waiting = tracker.status
    assert (waiting.progress.attempt, waiting.lock_status.statement) == (1, None)
    reporter.progressed(second)
    assert (tracker.status.progress.attempt, tracker.status.message) == (None, None)
    reporter.progressed(None)
    reporter.observed(LockStatus(statement=Statement("SELECT")))
    assert tracker.status.lock_status.statement == Statement("SELECT")
