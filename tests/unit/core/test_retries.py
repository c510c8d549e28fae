"""A revision that loses the connection is retried once, and fails when it loses the connection again."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import pytest

from api.migrations.core.decision import Policy
from api.migrations.core.protocols import MigrationRequest, ProgressListener
from api.migrations.core.reporter import ProgressReporter
from api.migrations.core.retries import Retries
from api.migrations.core.schema import CodeRevisions, Observed
from api.migrations.core.status import Phase, Tracker
from api.migrations.core.wait_budget import WaitBudget
from api.migrations.errors import AlreadyFailed, ConnectionLost, MigrationError, RevisionFailed
from tests.support.fakes import Database, FakeClock, FakeSession, Instance, apply_all

CODE = CodeRevisions({"a": frozenset(), "b": frozenset("a")}, frozenset("b"))
WORDS = "terminating connection due to administrator command"

Work = Callable[[FakeSession, MigrationRequest, ProgressListener], Awaitable[None]]


@pytest.fixture
def database() -> Database:
    """Return an empty database."""
    return Database(CODE, FakeClock())


def lost(revision: str, *, upgrade: bool = True) -> ConnectionLost:
    """Return the error that the runner raises for a lost connection in that revision."""
    return ConnectionLost(
        f"no connection while applying {revision}",
        revision=revision,
        name=f"{revision}, Do {revision}",
        upgrade=upgrade,
        last_words=WORDS,
        error_class="AdminShutdownError",
    )


@dataclass
class Losing:
    """A run that loses its connection in each of `revisions` in turn, and then succeeds."""

    revisions: list[str]
    refused: int = 0
    """How often the server then refuses a connection."""

    async def __call__(self, session: FakeSession, request: MigrationRequest, listener: ProgressListener) -> None:
        """Lose the connection, or apply everything."""
        if not self.revisions:
            return await apply_all(session, request, listener)
        listener.planned(("a", "b"), "Applied")
        listener.started(self.revisions[0])
        session.database.refused_connections = self.refused
        raise lost(self.revisions.pop(0))


async def start(database: Database, work: Work, policy: Policy | None = None) -> Instance:
    """Return an instance that became ready with that work."""
    database.work = work
    instance = Instance(database, policy=policy)
    await instance.coordinator.become_ready()
    return instance


async def test_a_loss_in_each_of_two_revisions_is_retried(database: Database) -> None:
    """Two revisions lose the connection once each: the instance retries both times and becomes ready."""
    instance = await start(database, Losing(["a", "b"]))
    assert (instance.phase, len(database.runs)) == (Phase.READY, 3)
    assert instance.tracker.status.counters.runs == ("interrupted", "interrupted", "applied")
    assert database.failures == []


def test_each_schema_counts_its_own_losses() -> None:
    """A lost connection in one schema does not count as a repeated loss in another schema."""
    tracker, clock = Tracker(), FakeClock()

    async def record(error: ConnectionLost, failure: RevisionFailed) -> None:
        raise failure

    retries = Retries(WaitBudget(tracker, Policy(), clock), ProgressReporter(tracker), record)
    losses = [(schema, lost("a")) for schema in ("one", "two", "one")]
    for schema, loss in losses:
        retries.count_interruption(loss, schema)
    assert [loss.repeated for _, loss in losses] == [False, False, True]


@pytest.mark.parametrize("act", ["start", "order"])
async def test_a_revision_that_loses_the_connection_twice_fails(database: Database, act: str) -> None:
    """A revision loses the connection twice: it fails, with the server's last words, and the failure is recorded."""
    database.work = Losing(["b"] * 9, refused=3)
    instance = Instance(database)
    coordinator = instance.coordinator
    with pytest.raises(RevisionFailed, match=f"revision b, Do b failed: .* lost twice .*{WORDS}.*To fix: ") as failed:
        await (
            coordinator.become_ready() if act == "start" else coordinator.execute(MigrationRequest("upgrade", "head"))
        )
    assert (failed.value.revision, failed.value.exit_code, len(database.runs)) == ("b", 1, 2)
    assert [past.error for _, past in database.failures] == [str(failed.value)]
    status = instance.tracker.status
    assert (status.phase, status.message, database.holder) == (Phase.FAILED, str(failed.value), None)
    assert (status.counters.runs, status.last_run and status.last_run.failed) == (("interrupted", "failed"), "b")


async def test_waiters_do_not_repeat_a_revision_that_lost_the_connection_twice(database: Database) -> None:
    """One of three instances loses its connection twice in a revision: the two waiters fail with the same error."""
    database.work = Losing(["a"] * 99)
    fleet = [Instance(database, f"i{number}") for number in range(3)]
    ended = await asyncio.gather(*(each.coordinator.become_ready() for each in fleet), return_exceptions=True)
    failures = [error for error in ended if isinstance(error, RevisionFailed)]
    assert len(failures) == 3
    assert [type(error) for error in failures].count(AlreadyFailed) == 2
    assert max(database.runs.count(instance) for instance in {*database.runs}) == 2


async def test_a_revision_that_committed_before_the_second_loss_has_not_failed(database: Database) -> None:
    """The second loss hides the answer to a successful COMMIT: the instance continues and becomes ready."""

    async def committed(session: FakeSession, request: MigrationRequest, listener: ProgressListener) -> None:
        if len(database.runs) == 2:
            database.observed = Observed(frozenset("a"))
        if len(database.runs) < 3:
            raise lost("a")
        await apply_all(session, request, listener)

    instance = await start(database, committed)
    assert (instance.phase, len(database.runs)) == (Phase.READY, 3)
    assert instance.tracker.status.counters.runs == ("interrupted", "interrupted", "applied")


async def test_a_downgrade_that_loses_the_connection_twice_fails(database: Database) -> None:
    """A downgrade loses the connection twice and its revision is still applied: the command fails."""
    database.observed = Observed(frozenset("b"))

    async def undo(session: FakeSession, request: MigrationRequest, listener: ProgressListener) -> None:
        raise lost("b", upgrade=False)

    database.work = undo
    with pytest.raises(RevisionFailed, match="lost twice"):
        await Instance(database).coordinator.execute(MigrationRequest("downgrade", "a"))
    assert len(database.runs) == 2


async def test_a_failure_that_cannot_be_recorded_is_still_raised(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """The server is unreachable after the second loss: the instance raises the failure and logs `not_recorded`."""

    async def gone(session: FakeSession, request: MigrationRequest, listener: ProgressListener) -> None:
        database.refused_connections = 1_000_000 if len(database.runs) == 2 else 0
        raise lost("a")

    database.work = gone
    with pytest.raises(MigrationError, match="revision a, Do a failed") as failed:
        await Instance(database, policy=Policy(wait_seconds=20, run_seconds=20)).coordinator.become_ready()
    assert type(failed.value) is RevisionFailed
    assert "not_recorded" in [getattr(record, "event", None) for record in caplog.records]
    assert database.failures == []
