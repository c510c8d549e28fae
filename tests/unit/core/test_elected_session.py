"""A session behind an elector acquires the elector's hold and the database's lock together or neither."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from api.migrations.core.coordinator import Coordinator
from api.migrations.core.decision import Policy
from api.migrations.core.elected_session import ElectedSession
from api.migrations.core.protocols import MigrationRequest, ProgressListener
from api.migrations.core.schema import CodeRevisions, Observed
from api.migrations.core.scope import Scope
from api.migrations.core.status import Holder, Phase
from api.migrations.errors import (
    AccessRefused,
    DatabaseUnreachable,
    HoldLost,
    MigrationError,
    RevisionFailed,
    RunTimeout,
    WaitTimeout,
    causes,
)
from tests.support.fakes import Database, FakeClock, FakeSession, Instance, apply_all
from tests.unit.electors.kubernetes.election import Election

CODE = CodeRevisions({"a": frozenset(), "b": frozenset("a")}, frozenset("b"))
STRANGER = Holder("other-1", 4242)
UPGRADE = MigrationRequest("upgrade", "head")

Work = Callable[[FakeSession, MigrationRequest, ProgressListener], Awaitable[None]]


@pytest.fixture
def database() -> Database:
    """Return an empty database."""
    return Database(CODE, FakeClock())


@pytest.fixture
def election() -> Election:
    """Return an election without a leader."""
    return Election()


def elected(database: Database, election: Election, name: str = "one", policy: Policy | None = None) -> Instance:
    """Return an instance whose sessions are elected."""
    instance = Instance(database, name)
    policy = policy or Policy()
    scope = Scope(lambda: ElectedSession(database.session(name), election.elector(name)), database.code, policy)
    instance.coordinator = Coordinator([scope], instance.tracker, policy, database.clock)
    return instance


def robbed_during(election: Election, then: Work) -> Work:
    """Return work during which another candidate becomes the leader, followed by `then`."""

    async def work(session: FakeSession, request: MigrationRequest, listener: ProgressListener) -> None:
        election.rob("thief")
        await then(session, request, listener)

    return work


async def for_ever(session: FakeSession, request: MigrationRequest, listener: ProgressListener) -> None:
    """Start revision a and never finish it."""
    listener.planned(("a",), "Applied")
    listener.started("a")
    await asyncio.Event().wait()


async def test_one_of_five_instances_is_elected_and_migrates(database: Database, election: Election) -> None:
    """Five instances start: only the elected one tries the database's lock and migrates, and all become ready."""
    fleet = [elected(database, election, f"i{number}") for number in range(5)]
    await asyncio.gather(*(instance.coordinator.become_ready() for instance in fleet))
    assert {instance.phase for instance in fleet} == {Phase.READY}
    assert database.tries == database.runs == ["i0"]
    assert (database.holder, election.leader) == (None, None)


async def test_a_session_does_not_try_the_hold_while_the_lock_is_held(database: Database, election: Election) -> None:
    """A session outside the election holds the lock: the elected session requests no hold until the lock is free."""
    database.holder = STRANGER
    session = ElectedSession(database.session("one"), election.elector("one"))
    await session.open()
    for _ in range(3):
        assert not await session.try_lock()
    assert (await session.lock_status()).holder == STRANGER
    assert (election.leader, election.asked_for, database.tries) == (None, 0, [])
    database.holder = None
    assert await session.try_lock()


async def test_a_session_releases_the_hold_if_another_acquires_the_lock(database: Database, election: Election) -> None:
    """Another session acquires the lock between check and try: the elected session releases its hold."""

    class Beaten(FakeSession):
        async def lock_is_held(self) -> bool:
            held = await super().lock_is_held()
            self.database.holder = STRANGER
            return held

    session = ElectedSession(Beaten(database, "one"), election.elector("one"))
    await session.open()
    assert not await session.try_lock()
    assert (election.leader, election.asked_for, database.tries) == (None, 1, ["one"])


async def test_a_waiter_reports_a_silent_elector_while_the_lock_is_held(database: Database, election: Election) -> None:
    """The elector does not answer while another session holds the lock: the waiter's lock status says so."""
    database.holder, election.silent = STRANGER, True
    session = ElectedSession(database.session("one"), election.elector("one"))
    await session.open()
    assert not await session.try_lock()
    assert (await session.lock_status()).problem == "no answer"


async def test_a_session_releases_the_hold_if_trying_the_lock_raises(election: Election) -> None:
    """Trying the lock raises DatabaseUnreachable: the session releases its hold and raises the same error."""

    class Broken(FakeSession):
        async def try_lock(self) -> bool:
            raise DatabaseUnreachable("no connection while taking the lock")

    session = ElectedSession(Broken(Database(CODE, FakeClock()), "one"), election.elector("one"))
    with pytest.raises(DatabaseUnreachable):
        await session.try_lock()
    assert election.leader is None


async def test_a_waiter_names_the_leader_before_it_holds_the_lock(database: Database, election: Election) -> None:
    """Another instance leads but holds no lock yet: the waiter's lock status names that instance."""
    election.grant(election.elector("leads"))
    session = ElectedSession(database.session("one"), election.elector("one"))
    await session.open()
    assert not await session.try_lock()
    assert (await session.lock_status()).holder == Holder("leads")


async def test_an_instance_waits_for_a_silent_elector_and_times_out(database: Database, election: Election) -> None:
    """The elector does not answer: the instance times out and runs nothing; once it answers, an instance migrates."""
    election.silent = True
    short = Policy(wait_seconds=5, run_seconds=5)
    await elected(database, election, policy=short).fails(WaitTimeout, "no answer of the election", "=5")
    assert database.tries == []
    election.silent = False
    await elected(database, election).coordinator.become_ready()
    assert database.observed.revisions == {"b"}


async def test_an_instance_fails_at_once_if_the_elector_refuses_it(database: Database, election: Election) -> None:
    """The elector refuses the instance: the instance fails without a retry."""
    election.refuses = True
    await elected(database, election).fails(AccessRefused, "does not know this instance")
    assert database.clock.slept == []


async def test_a_lost_hold_cancels_the_run(database: Database, election: Election) -> None:
    """Another candidate takes the hold during the run: the run is rolled back and the instance exits with code 6."""
    database.work = robbed_during(election, for_ever)
    await elected(database, election).fails(HoldLost, "thief has it", "rolled back")
    assert (database.holder, election.leader) == (None, "thief")
    assert HoldLost.exit_code == 6


async def test_a_run_that_commits_despite_a_lost_hold_succeeds(database: Database, election: Election) -> None:
    """The hold is lost while the last COMMIT is under way: the instance verifies the schema and becomes ready."""

    async def deaf(session: FakeSession, request: MigrationRequest, listener: ProgressListener) -> None:
        done = asyncio.create_task(apply_all(session, request, listener))
        while not done.done():
            try:
                await asyncio.shield(done)
            except asyncio.CancelledError:
                continue

    database.work = robbed_during(election, deaf)
    one = elected(database, election)
    await one.coordinator.become_ready()
    assert (one.phase, election.leader) == (Phase.READY, "thief")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (RevisionFailed("revision a failed", revision="a"), RevisionFailed),
        # the lost connection is a consequence of the lost hold
        (DatabaseUnreachable("no connection while migrating"), HoldLost),
    ],
)
async def test_a_revision_s_error_is_reported_instead_of_a_lost_hold(
    database: Database, election: Election, error: MigrationError, told: type[MigrationError]
) -> None:
    """After a lost hold a revision's own error is reported; a lost connection is reported as HoldLost."""

    async def fails_when_stopped(session: FakeSession, request: MigrationRequest, listener: ProgressListener) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise error from None

    database.work = robbed_during(election, fails_when_stopped)
    await elected(database, election).fails(told)


async def test_a_run_timeout_releases_hold_and_lock(database: Database, election: Election) -> None:
    """The run exceeds MIGRATION_RUN_SECONDS: it is cancelled, and both the hold and the lock are released."""
    database.work = for_ever
    policy = Policy(wait_seconds=0.2, run_seconds=0.1)
    await elected(database, election, policy=policy).fails(RunTimeout, "MIGRATION_RUN_SECONDS=0.1")
    assert (database.holder, election.leader) == (None, None)


async def test_a_leader_migrates_again_after_a_lost_connection(database: Database, election: Election) -> None:
    """The leader loses its connection to the database: it is elected again on a new session and finishes."""

    async def cut_off_once(session: FakeSession, request: MigrationRequest, listener: ProgressListener) -> None:
        database.work = apply_all
        raise DatabaseUnreachable("no connection while migrating")

    database.work = cut_off_once
    await elected(database, election).coordinator.become_ready()
    assert database.runs == ["one", "one"]
    assert election.leader is None


async def test_an_instance_at_head_does_not_ask_the_elector(database: Database, election: Election) -> None:
    """The schema is at head: the instance becomes ready although the elector does not answer."""
    database.observed = replace(Observed(), revisions=frozenset("b"))
    election.silent = True
    await elected(database, election).coordinator.become_ready()
    assert database.tries == []


def test_the_causes_of_an_error_are_finite() -> None:
    """An error that is its own cause is listed once."""
    error, below = HoldLost("lost"), OSError()
    error.__cause__, below.__context__ = error, error
    assert list(causes(error)) == [error]
    assert list(causes(below)) == [below, error]
    assert list(causes(None)) == []
