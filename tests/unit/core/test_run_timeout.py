"""The error of a run that exceeds its time budget, derived from its progress and one read of the database."""

import asyncio

import pytest

from api.migrations.core.decision import AttemptHistory, Policy
from api.migrations.core.protocols import Kind, MigrationRequest, ProgressListener
from api.migrations.core.reporter import ProgressReporter
from api.migrations.core.run_timeout import outcome_of_timeout
from api.migrations.core.schema import CodeRevisions, HalfApplied, Observed, compare_with_build
from api.migrations.core.status import Blocker, Holder, LockStatus, Phase, Retry, Tracker
from api.migrations.core.wait_budget import WaitBudget
from api.migrations.errors import (
    DatabaseUnreachable,
    MigrationError,
    RevisionFailed,
    RunTimeout,
    TableLockTimeout,
    WaitTimeout,
)
from tests.support.fakes import Database, FakeClock, FakeSession, Instance

STRANGER = Holder("other-1", 4242)
CHAIN = CodeRevisions({"a": frozenset(), "b": frozenset("a"), "c": frozenset("b")}, frozenset("c"))
CODE = CodeRevisions({"r1": frozenset(), "r2": frozenset({"r1"})}, frozenset({"r2"}))


@pytest.fixture
def database() -> Database:
    """Return an empty database."""
    return Database(CHAIN, FakeClock())


class Beside(FakeSession):
    """A second session that reads the state of a database, or fails with `error`, and keeps what it should record."""

    def __init__(self, *revisions: str, half: str | None = None, error: MigrationError | None = None) -> None:
        database = Database(CODE, FakeClock())
        database.observed = Observed(frozenset(revisions), (HalfApplied(half),) if half else ())
        super().__init__(database, "beside")
        self.recorded: list[str | None] = []
        self._error = error

    async def open(self) -> None:
        """Connect, or fail."""
        if self._error is not None:
            raise self._error
        await super().open()

    async def record_failure(
        self, error: str, revision: str | None, age_seconds: float, error_class: str = "TimeoutError"
    ) -> None:
        """Keep the revision."""
        self.recorded.append(revision)


class BesideAPause(Beside):
    """A second session that sees another instance pause after its third attempt."""

    async def lock_status(self) -> LockStatus:
        """Return the lock holder with its pause."""
        return LockStatus(Holder("other", 1), retry=Retry(3, 1.0))


def at(revision: str | None, *planned: str, finished: int = 0) -> Tracker:
    """Return the tracker of a run that planned these steps, finished some of them, and is running `revision`."""
    tracker = Tracker()
    reporter = ProgressReporter(tracker)
    if planned:
        reporter.planned(planned, "Applied")
    for step in planned[:finished]:
        reporter.started(step)
        reporter.finished(step)
    if revision:
        reporter.started(revision)
    return tracker


async def read_schema(tracker: Tracker, session: Beside, kind: Kind = "upgrade", target: str = "head") -> object:
    """Return the error of the timed-out run, or None."""
    return await outcome_of_timeout(session, tracker.status, 1.0, MigrationRequest(kind, target), CODE)


async def test_a_timed_out_run_that_committed_everything_has_not_failed() -> None:
    """The run times out, but its target is committed, perhaps below a newer revision: no error is returned."""
    assert await read_schema(at("r2", "r1", "r2", finished=1), Beside("r2")) is None
    assert await read_schema(at("r2", "r1", "r2", finished=1), Beside("of-a-newer-release")) is None
    assert await read_schema(at(None, "r1", "r2", finished=2), Beside("r2")) is None
    assert await read_schema(at("r2", "r2"), Beside("r1"), "downgrade", "r1") is None


async def test_a_timed_out_revision_that_is_not_committed_has_failed() -> None:
    """The run times out and its revision is not committed: the error says that it was rolled back, and is recorded."""
    session = Beside("r1")
    failure = await read_schema(at("r2", "r1", "r2", finished=1), session)
    assert (type(failure), session.recorded) == (RunTimeout, ["r2"])
    assert "revision r2 was cancelled and rolled back" in str(failure)
    failure = await read_schema(at("r2", "r2"), Beside("r2"), "downgrade", "r1")
    assert "revision r2 was cancelled and rolled back" in str(failure)


async def test_a_timed_out_revision_that_is_half_applied_is_not_called_rolled_back() -> None:
    """The run times out in a half-applied revision: the error says that a part is committed."""
    failure = await read_schema(at("r2", "r2"), Beside("r1", half="r2"))
    assert "revision r2 was cancelled after it had committed a part of its work" in str(failure)
    assert str(failure).endswith("first repair the schema, as './migrate.sh status' says")


async def test_a_timed_out_run_with_an_unreachable_database_has_an_unknown_outcome() -> None:
    """The run times out and the database does not answer: the error says that the outcome is unknown."""
    failure = await read_schema(at("r2", "r2"), Beside(error=DatabaseUnreachable("no answer")))
    assert isinstance(failure, DatabaseUnreachable)
    assert "its outcome is unknown (no answer)" in str(failure)


async def test_a_timed_out_function_has_failed_unless_it_is_recorded_as_done() -> None:
    """The run times out in `before` or `after`: it has failed by its name, unless `after` committed its record."""
    for moment in ("before", "after"):
        failure = await read_schema(at(moment, "r2", finished=1), Beside("r2"))
        assert isinstance(failure, RevisionFailed)
        assert f"the function '{moment}' was cancelled and rolled back" in str(failure)
    done = Beside("r2")
    done.database.observed = Observed(frozenset({"r2"}), completed="r2")
    assert await read_schema(at("after", "r2", finished=1), done) is None


async def test_a_run_that_times_out_between_two_steps_records_no_failed_revision() -> None:
    """The run times out between two revisions: the error counts the committed ones, and no revision is recorded."""
    session = Beside("r1")
    failure = await read_schema(at(None, "r1", "r2", finished=1), session)
    assert "1 of 2 steps are committed" in str(failure)
    assert session.recorded == []


@pytest.mark.parametrize("kind", ["stamp", "repair", "downgrade"])
async def test_a_command_that_times_out_before_its_first_step_has_failed(kind: Kind) -> None:
    """A command times out before its first step: it fails and refers to `./migrate.sh status`."""
    failure = await read_schema(at(None), Beside("r1"), kind, "r1")
    assert isinstance(failure, RevisionFailed)
    assert "'./migrate.sh status' shows what it committed" in str(failure)


async def test_only_an_instance_s_own_contention_makes_a_table_lock_timeout() -> None:
    """A run times out: it raises TableLockTimeout only after contention of its own, not after another instance's."""
    tracker, empty = Tracker(), compare_with_build(Observed(), CODE, {})
    reporter = ProgressReporter(tracker)
    reporter.infer_progress(empty)
    tracker.move(Phase.CHECKING)
    await WaitBudget(tracker, Policy(), FakeClock()).wait(BesideAPause(), empty, AttemptHistory())
    reporter.infer_progress(empty)
    assert tracker.status.progress.attempt == 3
    reporter.planned(("r1", "r2"), "Applied")
    reporter.started("r1")
    assert type(await read_schema(tracker, Beside())) is RunTimeout
    reporter.contended("r1", 1, 0.1, ())
    reporter.planned(("r1", "r2"), "Applied")
    reporter.started("r1")
    assert type(await read_schema(tracker, Beside())) is TableLockTimeout


async def test_a_run_that_was_blocked_until_its_end_does_not_ask_for_more_time() -> None:
    """A statement waits for a lock until the run times out: the message says to terminate the blocking session."""
    tracker = at("r2")
    tracker.note(lock_status=LockStatus(STRANGER, blocked_by=(Blocker(77, "lunch"),)))
    failure = await read_schema(tracker, Beside("r1"))
    assert type(failure) is TableLockTimeout
    assert "To fix: terminate the session that blocks it ('./migrate.sh status' names it)" in str(failure)
    assert "raise" not in str(failure)


async def test_a_run_over_its_budget_is_cancelled_and_recorded(database: Database) -> None:
    """A run exceeds MIGRATION_RUN_SECONDS: it is cancelled, recorded as failed, and the lock is released."""

    async def stuck(session: FakeSession, request: MigrationRequest, listener: ProgressListener) -> None:
        listener.planned(("a",), "Applied")
        listener.started("a")
        await asyncio.Event().wait()

    database.work = stuck
    await Instance(database, policy=Policy(run_seconds=0.01)).fails(
        RunTimeout, "revision a was cancelled", "MIGRATION_RUN_SECONDS=0.01"
    )
    assert "was cancelled" in str(database.failures[0][1].error)
    assert database.holder is None


async def late_answer(session: FakeSession, request: MigrationRequest, listener: ProgressListener) -> None:
    """Commit the last revision and never answer."""
    listener.planned(("c",), "Applied")
    listener.started("c")
    session.database.observed = Observed(frozenset({"c"}))
    await asyncio.Event().wait()


async def test_an_instance_whose_commit_succeeded_at_the_timeout_becomes_ready(database: Database) -> None:
    """The last revision commits, but the answer exceeds the run budget: the instance verifies and becomes ready."""
    database.work = late_answer
    instance = Instance(database, policy=Policy(run_seconds=0.01))
    await instance.coordinator.become_ready()
    assert (instance.phase, database.runs) == (Phase.READY, ["one"])


class Overtaken(FakeSession):
    """A session whose lock a newer release acquires when it closes, and half applies a revision."""

    async def close(self) -> None:
        """Close, and let the newer release start."""
        held = self._holds
        await super().close()
        if held:
            self.database.holder = STRANGER
            self.database.observed = Observed(frozenset({"c"}), (HalfApplied("of-a-newer-release"),))


async def test_an_instance_waits_for_the_release_that_acquires_its_lock_after_a_timeout(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A newer release acquires the lock of a timed-out run and is migrating: the instance waits for that release."""
    database.work = late_answer
    monkeypatch.setattr(database, "session", lambda name: Overtaken(database, name))
    await Instance(database, policy=Policy(run_seconds=0.01, wait_seconds=20)).fails(WaitTimeout, "other-1 (pid 4242)")
