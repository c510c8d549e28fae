"""A revision in which the connection is lost: once it is tried again, the second time it has failed."""

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
    """An empty database."""
    return Database(CODE, FakeClock())


def lost(revision: str, *, upgrade: bool = True) -> ConnectionLost:
    """What the runner makes of it."""
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
    """A run that loses its connection in one after the other of `revisions`, and is good after that."""

    revisions: list[str]
    refused: int = 0
    """How often the server then refuses a connection."""

    async def __call__(self, session: FakeSession, request: MigrationRequest, listener: ProgressListener) -> None:
        """Lose it, or go on."""
        if not self.revisions:
            return await apply_all(session, request, listener)
        listener.planned(("a", "b"), "Applied")
        listener.started(self.revisions[0])
        session.database.refused_connections = self.refused
        raise lost(self.revisions.pop(0))


async def start(database: Database, work: Work, policy: Policy | None = None) -> Instance:
    """An instance that became ready with that work."""
    database.work = work
    instance = Instance(database, policy=policy)
    await instance.coordinator.become_ready()
    return instance


async def test_lost_once_in_each_revision_it_goes_on(database: Database) -> None:
    """The losses of one revision do not count for another."""
    instance = await start(database, Losing(["a", "b"]))
    assert (instance.phase, len(database.runs)) == (Phase.READY, 3)
    assert instance.tracker.status.counters.runs == ("interrupted", "interrupted", "applied")
    assert database.failures == []


def test_each_schema_counts_its_own_losses() -> None:
    """Where env.py runs the revisions for several, a loss in one schema is none in another."""
    tracker, clock = Tracker(), FakeClock()

    async def record(error: ConnectionLost, failure: RevisionFailed) -> None:
        raise failure

    retries = Retries(WaitBudget(tracker, Policy(), clock), ProgressReporter(tracker), record)
    losses = [(schema, lost("a")) for schema in ("one", "two", "one")]
    for schema, loss in losses:
        retries.count_interruption(loss, schema)
    assert [loss.repeated for _, loss in losses] == [False, False, True]


@pytest.mark.parametrize("act", ["start", "order"])
async def test_lost_twice_in_one_revision_it_has_failed(database: Database, act: str) -> None:
    """The failure names the revision and has the last words; it is recorded although the server was away after it."""
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


async def test_instances_that_wait_do_not_repeat_it(database: Database) -> None:
    """Those that were there fail with the same words; each order lost its connection at most twice."""
    database.work = Losing(["a"] * 99)
    fleet = [Instance(database, f"i{number}") for number in range(3)]
    ended = await asyncio.gather(*(each.coordinator.become_ready() for each in fleet), return_exceptions=True)
    failures = [error for error in ended if isinstance(error, RevisionFailed)]
    assert len(failures) == 3
    assert [type(error) for error in failures].count(AlreadyFailed) == 2
    assert max(database.runs.count(instance) for instance in {*database.runs}) == 2


async def test_committed_after_all_it_is_no_failure(database: Database) -> None:
    """The answer to COMMIT may be what was lost."""

    async def committed(session: FakeSession, request: MigrationRequest, listener: ProgressListener) -> None:
        if len(database.runs) == 2:
            database.observed = Observed(frozenset("a"))
        if len(database.runs) < 3:
            raise lost("a")
        await apply_all(session, request, listener)

    instance = await start(database, committed)
    assert (instance.phase, len(database.runs)) == (Phase.READY, 3)
    assert instance.tracker.status.counters.runs == ("interrupted", "interrupted", "applied")


async def test_a_downgrade_has_failed_where_its_revision_is_still_there(database: Database) -> None:
    """It is the other way round than for an upgrade."""
    database.observed = Observed(frozenset("b"))

    async def undo(session: FakeSession, request: MigrationRequest, listener: ProgressListener) -> None:
        raise lost("b", upgrade=False)

    database.work = undo
    with pytest.raises(RevisionFailed, match="lost twice"):
        await Instance(database).coordinator.execute(MigrationRequest("downgrade", "a"))
    assert len(database.runs) == 2


async def test_what_cannot_be_recorded_is_told_all_the_same(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """The server does not come back within the wait budget."""

    async def gone(session: FakeSession, request: MigrationRequest, listener: ProgressListener) -> None:
        database.refused_connections = 1_000_000 if len(database.runs) == 2 else 0
        raise lost("a")

    database.work = gone
    with pytest.raises(MigrationError, match="revision a, Do a failed") as failed:
        await Instance(database, policy=Policy(wait_seconds=20, run_seconds=20)).coordinator.become_ready()
    assert type(failed.value) is RevisionFailed
    assert "not_recorded" in [getattr(record, "event", None) for record in caplog.records]
    assert database.failures == []
