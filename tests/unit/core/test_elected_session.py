"""A session behind an elector: both holds or none, and what becomes of a run that loses the outer one."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from api.migrations.core.coordinator import Coordinator, Scope
from api.migrations.core.decision import Policy
from api.migrations.core.elected_session import ElectedSession
from api.migrations.core.protocols import MigrationRequest, ProgressListener
from api.migrations.core.schema import CodeRevisions, Observed
from api.migrations.core.status import Holder, Phase
from api.migrations.errors import (
    AccessRefused,
    DatabaseUnreachable,
    HoldLost,
    MigrationError,
    RevisionFailed,
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
    """An empty database."""
    return Database(CODE, FakeClock())


@pytest.fixture
def election() -> Election:
    """Nobody leads."""
    return Election()


def elected(database: Database, election: Election, name: str = "one", policy: Policy | None = None) -> Instance:
    """An instance whose sessions are elected."""
    instance = Instance(database, name)
    scope = Scope(lambda: ElectedSession(database.session(name), election.elector(name)), database.code)
    instance.coordinator = Coordinator([scope], instance.tracker, policy or Policy(), database.clock)
    return instance


def robbed_during(election: Election, then: Work) -> Work:
    """Work in whose middle somebody else leads, whatever comes `then`."""

    async def work(session: FakeSession, request: MigrationRequest, listener: ProgressListener) -> None:
        election.rob("thief")
        await then(session, request, listener)

    return work


async def for_ever(session: FakeSession, request: MigrationRequest, listener: ProgressListener) -> None:
    """A statement that does not end."""
    listener.planned(("a",), "Applied")
    listener.started("a")
    await asyncio.Event().wait()


async def test_of_five_one_is_elected(database: Database, election: Election) -> None:
    """The others do not even ask for the database's lock, and see it finish."""
    fleet = [elected(database, election, f"i{number}") for number in range(5)]
    await asyncio.gather(*(instance.coordinator.become_ready() for instance in fleet))
    assert {instance.phase for instance in fleet} == {Phase.READY}
    assert database.tries == database.runs == ["i0"]
    assert (database.holder, election.leader) == (None, None)


async def test_the_hold_is_not_asked_for_while_the_lock_is_held(database: Database, election: Election) -> None:
    """A session outside the election holds the database's lock: nobody runs, and nobody leads for nothing."""
    database.holder = STRANGER
    session = ElectedSession(database.session("one"), election.elector("one"))
    await session.open()
    for _ in range(3):
        assert not await session.try_lock()
    assert (await session.lock_status()).holder == STRANGER
    assert (election.leader, election.asked_for, database.tries) == (None, 0, [])
    database.holder = None
    assert await session.try_lock()


async def test_the_hold_is_given_back_where_the_lock_is_taken(database: Database, election: Election) -> None:
    """The lock was free at the look, and taken by another session when it was asked for."""

    class Beaten(FakeSession):
        async def lock_is_held(self) -> bool:
            held = await super().lock_is_held()
            self.database.holder = STRANGER
            return held

    session = ElectedSession(Beaten(database, "one"), election.elector("one"))
    await session.open()
    assert not await session.try_lock()
    assert (election.leader, election.asked_for, database.tries) == (None, 1, ["one"])


async def test_silence_is_told_while_the_lock_is_held(database: Database, election: Election) -> None:
    """What elects does not answer, which those who wait want to know before the lock is free."""
    database.holder, election.silent = STRANGER, True
    session = ElectedSession(database.session("one"), election.elector("one"))
    await session.open()
    assert not await session.try_lock()
    assert (await session.lock_status()).problem == "no answer"


async def test_the_hold_is_given_back_where_the_lock_cannot_be_asked_for(election: Election) -> None:
    """Whatever that raises."""

    class Broken(FakeSession):
        async def try_lock(self) -> bool:
            raise DatabaseUnreachable("no connection while taking the lock")

    session = ElectedSession(Broken(Database(CODE, FakeClock()), "one"), election.elector("one"))
    with pytest.raises(DatabaseUnreachable):
        await session.try_lock()
    assert election.leader is None


async def test_who_leads_is_shown_before_the_lock_is_taken(database: Database, election: Election) -> None:
    """The elected one is named while it holds nothing in the database."""
    election.grant(election.elector("leads"))
    session = ElectedSession(database.session("one"), election.elector("one"))
    await session.open()
    assert not await session.try_lock()
    assert (await session.lock_status()).holder == Holder("leads")


async def test_silence_is_waited_for(database: Database, election: Election) -> None:
    """Within the budget, and with its own name in the message; nobody migrates meanwhile."""
    election.silent = True
    short = Policy(wait_seconds=5, run_seconds=5)
    await elected(database, election, policy=short).fails(WaitTimeout, "no answer of the election", "=5")
    assert database.tries == []
    election.silent = False
    await elected(database, election).coordinator.become_ready()
    assert database.observed.revisions == {"b"}


async def test_a_refusal_is_final(database: Database, election: Election) -> None:
    """The first answer is the last."""
    election.refuses = True
    await elected(database, election).fails(AccessRefused, "does not know this instance")
    assert database.clock.slept == []


async def test_what_is_lost_stops_the_run(database: Database, election: Election) -> None:
    """With a code of its own; the lock is free afterwards, and nobody was robbed in turn."""
    database.work = robbed_during(election, for_ever)
    await elected(database, election).fails(HoldLost, "thief has it", "rolled back")
    assert (database.holder, election.leader) == (None, "thief")
    assert HoldLost.exit_code == 6


async def test_what_was_done_despite_the_loss_is_done(database: Database, election: Election) -> None:
    """A run whose last COMMIT was under way when it was told to stop is not reported as failed."""

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
        # the session that was cut off is a consequence of the loss
        (DatabaseUnreachable("no connection while migrating"), HoldLost),
    ],
)
async def test_an_error_of_its_own_stays_its_own(
    database: Database, election: Election, error: MigrationError, told: type[MigrationError]
) -> None:
    """What the run ends with once it is told to stop, unless that is the stop itself."""

    async def fails_when_stopped(session: FakeSession, request: MigrationRequest, listener: ProgressListener) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise error from None

    database.work = robbed_during(election, fails_when_stopped)
    await elected(database, election).fails(told)


async def test_a_budget_ends_the_run_and_frees_both(database: Database, election: Election) -> None:
    """Cancelled from outside it is no loss, and the next one may lead."""
    database.work = for_ever
    policy = Policy(wait_seconds=0.2, run_seconds=0.1)
    await elected(database, election, policy=policy).fails(RevisionFailed, "MIGRATION_RUN_SECONDS=0.1")
    assert (database.holder, election.leader) == (None, None)


async def test_a_lost_session_is_no_lost_hold(database: Database, election: Election) -> None:
    """Cut off from the database while it leads, it goes on with a new session, elected anew."""

    async def cut_off_once(session: FakeSession, request: MigrationRequest, listener: ProgressListener) -> None:
        database.work = apply_all
        raise DatabaseUnreachable("no connection while migrating")

    database.work = cut_off_once
    await elected(database, election).coordinator.become_ready()
    assert database.runs == ["one", "one"]
    assert election.leader is None


async def test_nobody_leads_where_there_is_nothing_to_do(database: Database, election: Election) -> None:
    """At head no election is asked."""
    database.observed = replace(Observed(), revisions=frozenset("b"))
    election.silent = True
    await elected(database, election).coordinator.become_ready()
    assert database.tries == []


def test_the_causes_of_an_error_come_to_an_end() -> None:
    """Raised again from itself, it would be followed for ever."""
    error, below = HoldLost("lost"), OSError()
    error.__cause__, below.__context__ = error, error
    assert list(causes(error)) == [error]
    assert list(causes(below)) == [below, error]
    assert list(causes(None)) == []
