"""What is said of a run that is out of time, decided from its progress and one look at the database."""

import asyncio

import pytest

from api.migrations.core.decision import AttemptHistory, Policy
from api.migrations.core.protocols import Kind, MigrationRequest, ProgressListener
from api.migrations.core.reporter import ProgressReporter
from api.migrations.core.run_timeout import outcome_of_timeout
from api.migrations.core.schema import CodeRevisions, HalfApplied, Observed, compare_with_build
from api.migrations.core.status import Holder, LockStatus, Phase, Retry, Tracker
from api.migrations.core.wait_budget import WaitBudget
from api.migrations.errors import DatabaseUnreachable, MigrationError, RevisionFailed, TableLockTimeout, WaitTimeout
from tests.support.fakes import Database, FakeClock, FakeSession, Instance

STRANGER = Holder("other-1", 4242)
CHAIN = CodeRevisions({"a": frozenset(), "b": frozenset("a"), "c": frozenset("b")}, frozenset("c"))
CODE = CodeRevisions({"r1": frozenset(), "r2": frozenset({"r1"})}, frozenset({"r2"}))


@pytest.fixture
def database() -> Database:
    """An empty database."""
    return Database(CHAIN, FakeClock())


class Beside(FakeSession):
    """Sees what there is, unless it cannot; and keeps what it is to record."""

    def __init__(self, *revisions: str, half: str | None = None, error: MigrationError | None = None) -> None:
        database = Database(CODE, FakeClock())
        database.observed = Observed(frozenset(revisions), (HalfApplied(half),) if half else ())
        super().__init__(database, "beside")
        self.recorded: list[str | None] = []
        self._error = error

    async def open(self) -> None:
        """Connect."""
        if self._error is not None:
            raise self._error
        await super().open()

    async def record_failure(
        self, error: str, revision: str | None, age_seconds: float, error_class: str = "TimeoutError"
    ) -> None:
        """Keep it."""
        self.recorded.append(revision)


class BesideAPause(Beside):
    """Somebody else has tried three times."""

    async def lock_status(self) -> LockStatus:
        """Who holds the lock."""
        return LockStatus(Holder("other", 1), retry=Retry(3, 1.0))


def at(revision: str | None, *planned: str, finished: int = 0) -> Tracker:
    """A run that was to take these steps, has finished some, and is at `revision`."""
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
    """What it comes to."""
    return await outcome_of_timeout(session, tracker.status, 1.0, MigrationRequest(kind, target), CODE)


async def test_what_is_there_is_no_failure() -> None:
    """Committed in the last moment, also where a newer release went on from it, or env.py was not done."""
    assert await read_schema(at("r2", "r1", "r2", finished=1), Beside("r2")) is None
    assert await read_schema(at("r2", "r1", "r2", finished=1), Beside("of-a-newer-release")) is None
    assert await read_schema(at(None, "r1", "r2", finished=2), Beside("r2")) is None
    assert await read_schema(at("r2", "r2"), Beside("r1"), "downgrade", "r1") is None


async def test_what_is_not_there_is_one() -> None:
    """And is recorded as one."""
    session = Beside("r1")
    failure = await read_schema(at("r2", "r1", "r2", finished=1), session)
    assert (type(failure), session.recorded) == (RevisionFailed, ["r2"])
    assert "revision r2 was cancelled and rolled back" in str(failure)
    failure = await read_schema(at("r2", "r2"), Beside("r2"), "downgrade", "r1")
    assert "revision r2 was cancelled and rolled back" in str(failure)


async def test_half_of_it_is_not_called_rolled_back() -> None:
    """It has to be put in order."""
    failure = await read_schema(at("r2", "r2"), Beside("r1", half="r2"))
    assert "revision r2 was cancelled after it had committed a part of its work" in str(failure)


async def test_what_cannot_be_seen_is_not_known() -> None:
    """Nothing is concluded from a database that does not answer."""
    failure = await read_schema(at("r2", "r2"), Beside(error=DatabaseUnreachable("no answer")))
    assert isinstance(failure, DatabaseUnreachable)
    assert "its outcome is unknown (no answer)" in str(failure)


async def test_between_two_steps_no_step_failed() -> None:
    """So none is recorded."""
    session = Beside("r1")
    failure = await read_schema(at(None, "r1", "r2", finished=1), session)
    assert "1 of 2 steps are committed" in str(failure)
    assert session.recorded == []


@pytest.mark.parametrize("kind", ["stamp", "repair", "downgrade"])
async def test_an_order_that_never_came_to_a_step_has_not_succeeded(kind: Kind) -> None:
    """Nobody knows what it did; in any case it is not called done."""
    failure = await read_schema(at(None), Beside("r1"), kind, "r1")
    assert isinstance(failure, RevisionFailed)
    assert "'./migrate.sh status' shows what it committed" in str(failure)


async def test_the_tries_of_another_are_not_its_own() -> None:
    """Only whoever lacked a table lock himself is told to try again; the exit code says so."""
    tracker, empty = Tracker(), compare_with_build(Observed(), CODE, {})
    reporter = ProgressReporter(tracker)
    reporter.infer_progress(empty)
    tracker.move(Phase.CHECKING)
    await WaitBudget(tracker, Policy(), FakeClock()).wait(BesideAPause(), empty, AttemptHistory())
    reporter.infer_progress(empty)
    assert tracker.status.progress.attempt == 3
    reporter.planned(("r1", "r2"), "Applied")
    reporter.started("r1")
    assert type(await read_schema(tracker, Beside())) is RevisionFailed
    reporter.contended("r1", 1, 0.1, ())
    reporter.planned(("r1", "r2"), "Applied")
    reporter.started("r1")
    assert type(await read_schema(tracker, Beside())) is TableLockTimeout


async def test_a_run_over_its_budget_is_cancelled_and_recorded(database: Database) -> None:
    """The error names the revision and the setting, and the history tells the others."""

    async def stuck(session: FakeSession, request: MigrationRequest, listener: ProgressListener) -> None:
        listener.planned(("a",), "Applied")
        listener.started("a")
        await asyncio.Event().wait()

    database.work = stuck
    await Instance(database, policy=Policy(run_seconds=0.01)).fails(
        RevisionFailed, "revision a was cancelled", "MIGRATION_RUN_SECONDS=0.01"
    )
    assert "was cancelled" in str(database.failures[0][1].error)
    assert database.holder is None


async def late_answer(session: FakeSession, request: MigrationRequest, listener: ProgressListener) -> None:
    """The last revision is committed, and the answer does not come."""
    listener.planned(("c",), "Applied")
    listener.started("c")
    session.database.observed = Observed(frozenset({"c"}))
    await asyncio.Event().wait()


async def test_a_commit_that_the_budget_overtook_is_not_called_failed(database: Database) -> None:
    """The revision is in, and only the answer came too late: it looks again, and is ready."""
    database.work = late_answer
    instance = Instance(database, policy=Policy(run_seconds=0.01))
    await instance.coordinator.become_ready()
    assert (instance.phase, database.runs) == (Phase.READY, ["one"])


class Overtaken(FakeSession):
    """As it gives its lock up, a newer release takes it, and is in the middle of something."""

    async def close(self) -> None:
        """Leave nothing behind."""
        held = self._holds
        await super().close()
        if held:
            self.database.holder = STRANGER
            self.database.observed = Observed(frozenset({"c"}), (HalfApplied("of-a-newer-release"),))


async def test_whoever_goes_on_after_that_is_waited_for(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock went with the run that was cancelled, so what is half applied is somebody's work, and no accident."""
    database.work = late_answer
    monkeypatch.setattr(database, "session", lambda name: Overtaken(database, name))
    await Instance(database, policy=Policy(run_seconds=0.01, wait_seconds=20)).fails(WaitTimeout, "other-1 (pid 4242)")
