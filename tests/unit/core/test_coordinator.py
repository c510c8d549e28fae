"""The waiting loop, with a database in memory and time that only moves when somebody waits."""

import asyncio
from dataclasses import replace

import pytest

from api.migrations.core.decision import Policy
from api.migrations.core.protocols import MigrationRequest, PastAttempt, ProgressListener
from api.migrations.core.schema import CodeRevisions, HalfApplied, Observed
from api.migrations.core.status import Holder, Phase
from api.migrations.errors import (
    AlreadyFailed,
    DatabaseUnreachable,
    HoldLost,
    LockContended,
    MigrationError,
    RevisionFailed,
    WaitTimeout,
)
from tests.support.fakes import Database, FakeClock, FakeSession, Instance, apply_all

CODE = CodeRevisions({"a": frozenset(), "b": frozenset("a"), "c": frozenset("b")}, frozenset("c"))
STRANGER = Holder("other-1", 4242)


@pytest.fixture
def database() -> Database:
    """An empty database."""
    return Database(CODE, FakeClock())


async def test_of_five_instances_one_migrates(database: Database) -> None:
    """The others wait, and see it finish."""
    fleet = [Instance(database, f"i{number}") for number in range(5)]
    await asyncio.gather(*(instance.coordinator.become_ready() for instance in fleet))
    assert {instance.phase for instance in fleet} == {Phase.READY}
    assert len(database.runs) == 1
    assert database.observed.revisions == {"c"}
    assert database.holder is None


async def test_a_waiter_says_whom_it_waits_for(database: Database) -> None:
    """Its status names the holder while it waits, and forgets it once ready."""
    database.holder = STRANGER
    instance = Instance(database)
    seen = []

    async def finishes_elsewhere(seconds: float) -> None:
        seen.append(instance.tracker.status)
        database.observed, database.holder = Observed(frozenset("c")), None

    database.clock.sleep = finishes_elsewhere  # type: ignore[method-assign]
    await instance.coordinator.become_ready()
    assert [(status.phase, status.lock_status.holder) for status in seen] == [(Phase.WAITING, STRANGER)]
    assert (instance.phase, instance.tracker.status.lock_status.holder) == (Phase.READY, None)
    assert database.runs == []


async def test_what_somebody_is_at_is_no_accident(database: Database) -> None:
    """A revision that commits by itself looks half applied meanwhile; who waits says that it is behind."""
    database.holder = STRANGER
    database.observed = Observed(frozenset(), (HalfApplied("a", "CREATE TABLE"),))
    instance = Instance(database)
    seen = []

    async def finishes_elsewhere(seconds: float) -> None:
        seen.append(str(instance.tracker.status.message))
        database.observed, database.holder = Observed(frozenset("c")), None

    database.clock.sleep = finishes_elsewhere  # type: ignore[method-assign]
    await instance.coordinator.become_ready()
    assert "3 pending; other-1 (pid 4242) holds the lock" in seen[0]
    assert "repair" not in seen[0]


async def test_what_is_dirty_is_not_tried_again_by_itself(database: Database) -> None:
    """Who only waits names the way out, and neither a next try nor the failure, which says the same once more."""
    failed = PastAttempt("a", "half_applied", "other-1", None, "it failed after it had committed a part", 0.0)
    database.failures.append((database.clock.seconds, failed))
    database.observed = Observed(frozenset(), (HalfApplied("a", "CREATE TABLE"),))
    instance = Instance(database, policy=Policy(may_migrate=False, wait_seconds=20, run_seconds=20))
    with pytest.raises(WaitTimeout, match="repair --rerun") as gave_up:
        await instance.coordinator.become_ready()
    assert "next try" not in str(gave_up.value)
    assert "last attempt" not in str(gave_up.value)


async def test_when_the_holder_dies_another_takes_over(database: Database) -> None:
    """Cancelled in mid-run, its session ends; the next one continues where it was."""

    async def stuck(session: FakeSession, request: MigrationRequest, listener: ProgressListener) -> None:
        if session.instance == "dies":
            database.observed = Observed(frozenset("a"))
            await asyncio.Event().wait()
        await apply_all(session, request, listener)

    database.work = stuck
    dies, lives = Instance(database, "dies"), Instance(database, "lives")
    first = asyncio.create_task(dies.coordinator.become_ready())
    second = asyncio.create_task(lives.coordinator.become_ready())
    while lives.phase is not Phase.WAITING:
        await database.clock.sleep(1)
    first.cancel()
    await second
    assert first.cancelled()
    assert (database.runs, lives.phase) == (["dies", "lives"], Phase.READY)


async def test_a_connection_lost_in_mid_run_is_taken_up_again(database: Database) -> None:
    """The holder looks again, tries the lock again, and finishes."""

    async def cut_off_once(session: FakeSession, request: MigrationRequest, listener: ProgressListener) -> None:
        database.work = apply_all
        raise DatabaseUnreachable("no connection while migrating: the server ended the session")

    database.work = cut_off_once
    instance = Instance(database)
    await instance.coordinator.become_ready()
    assert (instance.phase, len(database.runs)) == (Phase.READY, 2)


async def test_a_run_rolled_back_with_its_lock_is_tried_again(database: Database) -> None:
    """Behind a pooler: the lock is free during the pause, and a session of its own tries next."""

    async def contended_twice(session: FakeSession, request: MigrationRequest, listener: ProgressListener) -> None:
        if len(database.runs) > 2:
            return await apply_all(session, request, listener)
        error = LockContended("revision a did not acquire its table lock", "a")
        error.pause_seconds = 7
        raise error

    database.work = contended_twice
    instance = Instance(database)
    await instance.coordinator.become_ready()
    assert (instance.phase, len(database.runs)) == (Phase.READY, 3)
    assert database.clock.slept.count(7) == 2


async def test_the_wait_budget_ends_such_tries(database: Database) -> None:
    """With what was in the way, and nothing held."""

    async def contended(session: FakeSession, request: MigrationRequest, listener: ProgressListener) -> None:
        error = LockContended("revision a did not acquire its table lock", "a")
        error.pause_seconds = 30
        raise error

    database.work = contended
    instance = Instance(database, policy=Policy(wait_seconds=100, run_seconds=60))
    await instance.fails(WaitTimeout, "MIGRATION_WAIT_SECONDS=100", "revision a did not acquire its table lock")
    assert (len(database.runs), database.holder) == (5, None)


async def test_the_end_of_the_wait_budget_starts_nothing(database: Database) -> None:
    """It names the holder and the seconds, and the old schema is not served."""
    database.holder = STRANGER
    await Instance(database, policy=Policy(wait_seconds=30)).fails(
        WaitTimeout, "MIGRATION_WAIT_SECONDS=30", "other-1 (pid 4242)", "waited 30 s", "at base", "head is c"
    )
    assert (database.runs, database.holder) == ([], STRANGER)
    assert database.clock.seconds == pytest.approx(1030)


async def test_an_unreachable_database_is_endured(database: Database) -> None:
    """It may be starting; the status says what is waited for."""
    database.refused_connections = 5
    instance = Instance(database)
    await instance.coordinator.become_ready()
    assert instance.phase is Phase.READY
    assert len(database.clock.slept) >= 5


async def test_an_unreachable_database_is_given_up_with_the_budget(database: Database) -> None:
    """Exit code 5, and the setting to raise."""
    database.refused_connections = 1_000_000
    await Instance(database, policy=Policy(wait_seconds=20)).fails(
        DatabaseUnreachable, "MIGRATION_WAIT_SECONDS=20", "starting up"
    )
    assert DatabaseUnreachable.exit_code == 5


async def test_a_failure_seen_while_waiting_is_not_repeated(database: Database) -> None:
    """Every instance would fail with it in turn; the error names who had it."""
    one, two = Instance(database, "one"), Instance(database, "two")

    async def fails(session: FakeSession, request: MigrationRequest, listener: ProgressListener) -> None:
        while two.phase is not Phase.WAITING:
            await database.clock.sleep(1)
        session.failed("a", "revision a failed and was rolled back: boom")
        raise RevisionFailed("revision a failed and was rolled back: boom", revision="a")

    database.work = fails
    await asyncio.gather(one.fails(RevisionFailed, "boom"), two.fails(AlreadyFailed, "boom", "on instance one"))
    assert (database.runs, database.holder) == (["one"], None)
    assert (one.tracker.status.last_run or pytest.fail("no run")).result == "failed"


async def test_a_failure_older_than_the_instance_is_tried_again(database: Database) -> None:
    """The operator started it once more: perhaps the cause is gone."""
    database.session("yesterday").failed("a", "boom")
    database.clock.seconds += 1
    instance = Instance(database)
    await instance.coordinator.become_ready()
    assert (instance.phase, database.runs) == (Phase.READY, ["one"])


async def test_a_lost_hold_ends_the_instance(database: Database) -> None:
    """Another one may be migrating; this one does not go on."""

    async def drops_the_lock(session: FakeSession, request: MigrationRequest, listener: ProgressListener) -> None:
        await apply_all(session, request, listener)
        database.holder = STRANGER

    database.work = drops_the_lock
    await Instance(database).fails(HoldLost, "the lock was gone")


async def test_an_order_waits_for_the_lock(database: Database) -> None:
    """Within the wait budget, like everybody else."""
    database.holder = STRANGER
    instance = Instance(database, policy=replace(Policy(), wait_seconds=10))
    with pytest.raises(WaitTimeout, match="other-1"):
        await instance.coordinator.execute(MigrationRequest("downgrade", "-1"))
    assert (instance.phase, database.runs) == (Phase.FAILED, [])


async def test_a_relative_downgrade_is_never_repeated(database: Database) -> None:
    """The step is committed and then the server goes away: -1 must not become -2."""
    undone: list[str] = []

    async def undo(session: FakeSession, request: MigrationRequest, listener: ProgressListener) -> None:
        undone.append(request.target)
        if len(undone) == 1:
            raise DatabaseUnreachable("no connection while migrating: the answer to COMMIT was lost")

    database.observed, database.work = Observed(frozenset("c")), undo
    with pytest.raises(MigrationError, match="is not repeated"):
        await Instance(database).coordinator.execute(MigrationRequest("downgrade", "-1"))
    assert undone == ["-1"]


async def test_a_relative_downgrade_is_not_repeated_for_want_of_verification(database: Database) -> None:
    """The step is committed, and the connection that should verify it does not come about."""
    undone: list[str] = []

    async def undo(session: FakeSession, request: MigrationRequest, listener: ProgressListener) -> None:
        undone.append(request.target)
        database.refused_connections = 1

    database.observed, database.work = Observed(frozenset("c")), undo
    with pytest.raises(MigrationError, match="is not repeated"):
        await Instance(database).coordinator.execute(MigrationRequest("downgrade", "-1"))
    assert undone == ["-1"]
