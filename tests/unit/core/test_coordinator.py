"""The coordinator's waiting loop, with a database in memory and a clock that moves only during a sleep."""

import asyncio
from dataclasses import replace

import pytest

from api.migrations.core.decision import Policy
from api.migrations.core.protocols import MigrationRequest, PastAttempt, ProgressListener
from api.migrations.core.schema import CodeRevisions, HalfApplied, Observed, SchemaState
from api.migrations.core.status import Blocker, Holder, LockStatus, Phase, Status
from api.migrations.errors import (
    AlreadyFailed,
    DatabaseUnreachable,
    HoldLost,
    LockContended,
    MigrationError,
    OldInstances,
    RevisionFailed,
    SchemaRefused,
    TableLockTimeout,
    WaitTimeout,
)
from tests.support.fakes import Database, FakeClock, FakeSession, Instance, apply_all

CODE = CodeRevisions({"a": frozenset(), "b": frozenset("a"), "c": frozenset("b")}, frozenset("c"))
STRANGER = Holder("other-1", 4242)


@pytest.fixture
def database() -> Database:
    """Return an empty database."""
    return Database(CODE, FakeClock())


async def test_of_five_instances_one_migrates(database: Database) -> None:
    """Five instances start: one migrates, the others wait, all become ready, and the lock is free."""
    fleet = [Instance(database, f"i{number}") for number in range(5)]
    await asyncio.gather(*(instance.coordinator.become_ready() for instance in fleet))
    assert {instance.phase for instance in fleet} == {Phase.READY}
    assert len(database.runs) == 1
    assert database.observed.revisions == {"c"}
    assert database.holder is None


async def test_a_waiter_names_the_lock_holder(database: Database) -> None:
    """The status of a waiter names the lock holder, and no holder once the instance is ready."""
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


async def test_a_waiter_does_not_call_a_running_revision_half_applied(database: Database) -> None:
    """A waiter sees the lock holder's self-committing revision half applied: it reports pending ones, no repair."""
    database.holder = STRANGER
    database.observed = Observed(frozenset(), (HalfApplied("a", "CREATE TABLE"),))
    instance = Instance(database)
    seen = []

    async def finishes_elsewhere(seconds: float) -> None:
        assert instance.tracker.status.schema.state is SchemaState.EMPTY
        seen.append(str(instance.tracker.status.message))
        database.observed, database.holder = Observed(frozenset("c")), None

    database.clock.sleep = finishes_elsewhere  # type: ignore[method-assign]
    await instance.coordinator.become_ready()
    assert "3 pending; other-1 (pid 4242) holds the lock" in seen[0]
    assert "repair" not in seen[0]


async def test_a_waiter_announces_no_retry_of_a_half_applied_revision(database: Database) -> None:
    """A waiter times out on a half-applied revision: its error names the repair command, and no retry."""
    failed = PastAttempt("a", "half_applied", "other-1", None, "it failed after it had committed a part", 0.0)
    database.failures.append((database.clock.seconds, failed))
    database.observed = Observed(frozenset(), (HalfApplied("a", "CREATE TABLE"),))
    instance = Instance(database, policy=Policy(may_migrate=False, wait_seconds=20, run_seconds=20))
    with pytest.raises(WaitTimeout, match="repair --rerun") as gave_up:
        await instance.coordinator.become_ready()
    assert instance.tracker.status.schema.state is SchemaState.DIRTY
    assert "next try" not in str(gave_up.value)
    assert "last attempt" not in str(gave_up.value)


async def test_another_instance_continues_when_the_lock_holder_dies(database: Database) -> None:
    """The lock holder is cancelled during its run: a waiter acquires the lock and continues after the last revision."""

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


async def test_the_lock_holder_migrates_again_after_a_lost_connection(database: Database) -> None:
    """The lock holder loses its connection during the run: it reconnects, acquires the lock again and finishes."""

    async def cut_off_once(session: FakeSession, request: MigrationRequest, listener: ProgressListener) -> None:
        database.work = apply_all
        raise DatabaseUnreachable("no connection while migrating: the server ended the session")

    database.work = cut_off_once
    instance = Instance(database)
    await instance.coordinator.become_ready()
    assert (instance.phase, len(database.runs)) == (Phase.READY, 2)


async def test_a_contended_run_behind_a_pooler_is_retried_after_a_pause(database: Database) -> None:
    """A rollback behind a pooler releases the lock too: the instance pauses and retries until the run succeeds."""

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


async def test_a_contended_run_behind_a_pooler_times_out(database: Database) -> None:
    """Every retry behind a pooler is contended: the instance times out, names the revision, and holds no lock."""

    async def contended(session: FakeSession, request: MigrationRequest, listener: ProgressListener) -> None:
        error = LockContended("revision a did not acquire its table lock", "a")
        error.pause_seconds = 30
        raise error

    database.work = contended
    instance = Instance(database, policy=Policy(wait_seconds=100, run_seconds=60))
    words = "MIGRATION_WAIT_SECONDS=100", "revision a did not acquire its table lock", "a larger budget does not help"
    await instance.fails(TableLockTimeout, *words)
    assert (len(database.runs), database.holder) == (5, None)


OLD = OldInstances(
    "revision c drops what older builds need: shop@a. To fix: stop them", blockers=(Blocker(7, lacks="b"),)
)


async def test_old_instances_end_the_wait_before_any_run(database: Database) -> None:
    """Instances of older builds stay: the instance times out, holds no lock, and has run and recorded nothing."""
    database.old_instances = OLD
    words = "MIGRATION_WAIT_SECONDS=30: revision c drops what older builds need: shop@a", "To fix: stop them"
    instance = Instance(database, policy=Policy(wait_seconds=30, run_seconds=30))
    await instance.fails(OldInstances, *words)
    assert (database.runs, database.holder, database.failures) == ([], None, [])
    assert instance.tracker.status.at_failure == LockStatus(blocked_by=OLD.blockers)
    assert len(database.tries) > 5


async def test_an_older_build_does_not_serve_after_a_contract(database: Database) -> None:
    """The history says that a newer contract requires what this build lacks: it does not serve, and names that."""
    database.observed = Observed(frozenset("e"))
    database.lineage = {"d": frozenset("c"), "e": frozenset("d")}
    database.contracts = {"e": "d"}
    words = "the database is ahead: it is at e, and this build (head c) cannot run on it", "lacks d, which e requires"
    await Instance(database).fails(SchemaRefused, *words, "To fix: deploy a release that contains d")
    database.contracts = {"e": "b", "other": "d"}
    instance = Instance(database)
    await instance.coordinator.become_ready()
    assert instance.phase is Phase.READY


async def test_a_run_continues_when_the_old_instances_have_stopped(database: Database) -> None:
    """The old instances are gone at the third look: the instance migrates, and shows them no longer."""
    database.old_instances = OLD
    seen: list[Status] = []

    async def sleep(seconds: float) -> None:
        seen.append(instance.tracker.status)
        if len(seen) == 3:
            database.old_instances = None

    database.clock.sleep = sleep  # type: ignore[method-assign]
    instance = Instance(database)
    await instance.coordinator.become_ready()
    assert {(one.phase, one.lock_status.blocked_by) for one in seen[:3]} == {(Phase.WAITING, OLD.blockers)}
    assert (instance.phase, len(database.runs), instance.tracker.status.lock_status) == (Phase.READY, 1, LockStatus())


async def test_a_waiter_times_out_when_the_holder_keeps_the_lock(database: Database) -> None:
    """The holder keeps the lock: the waiter times out, names holder and seconds, runs nothing and does not serve."""
    database.holder = STRANGER
    await Instance(database, policy=Policy(wait_seconds=30)).fails(
        WaitTimeout, "MIGRATION_WAIT_SECONDS=30", "other-1 (pid 4242)", "waited 30 s", "at base", "head is c"
    )
    assert (database.runs, database.holder) == ([], STRANGER)
    assert database.clock.seconds == pytest.approx(1030)


async def test_an_instance_retries_an_unreachable_database(database: Database) -> None:
    """The server refuses five connections: the instance keeps retrying, connects and becomes ready."""
    database.refused_connections = 5
    instance = Instance(database)
    await instance.coordinator.become_ready()
    assert instance.phase is Phase.READY
    assert len(database.clock.slept) >= 5


async def test_an_instance_times_out_on_an_unreachable_database(database: Database) -> None:
    """The server refuses every connection: the instance fails with exit code 5 and names the setting to raise."""
    database.refused_connections = 1_000_000
    await Instance(database, policy=Policy(wait_seconds=20)).fails(
        DatabaseUnreachable, "MIGRATION_WAIT_SECONDS=20", "starting up"
    )
    assert DatabaseUnreachable.exit_code == 5


async def test_a_waiter_does_not_repeat_the_lock_holder_s_failure(database: Database) -> None:
    """A revision fails in the lock holder: the waiter fails with the same error, names the holder, and runs nothing."""
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


async def test_an_instance_retries_a_failure_from_before_its_start(database: Database) -> None:
    """A revision failed before the instance started: the instance runs the revision again and becomes ready."""
    database.session("yesterday").failed("a", "boom")
    database.clock.seconds += 1
    instance = Instance(database)
    await instance.coordinator.become_ready()
    assert (instance.phase, database.runs) == (Phase.READY, ["one"])


async def test_an_instance_fails_when_another_session_acquires_its_lock(database: Database) -> None:
    """Another session holds the lock at the end of the run: the instance fails with HoldLost."""

    async def drops_the_lock(session: FakeSession, request: MigrationRequest, listener: ProgressListener) -> None:
        await apply_all(session, request, listener)
        database.holder = STRANGER

    database.work = drops_the_lock
    await Instance(database).fails(HoldLost, "the lock was already released before unlock")


async def test_a_command_waits_for_the_lock_and_times_out(database: Database) -> None:
    """Another session keeps the lock: a downgrade waits for the wait budget, fails and runs nothing."""
    database.holder = STRANGER
    instance = Instance(database, policy=replace(Policy(), wait_seconds=10))
    with pytest.raises(WaitTimeout, match="other-1"):
        await instance.coordinator.execute(MigrationRequest("downgrade", "-1"))
    assert (instance.phase, database.runs) == (Phase.FAILED, [])


async def test_a_relative_downgrade_is_not_repeated_after_a_lost_answer(database: Database) -> None:
    """The answer to COMMIT of a downgrade by -1 is lost: the command fails, as a repeat would undo two revisions."""
    undone: list[str] = []

    async def undo(session: FakeSession, request: MigrationRequest, listener: ProgressListener) -> None:
        undone.append(request.target)
        if len(undone) == 1:
            raise DatabaseUnreachable("no connection while migrating: the answer to COMMIT was lost")

    database.observed, database.work = Observed(frozenset("c")), undo
    with pytest.raises(MigrationError, match="is not repeated"):
        await Instance(database).coordinator.execute(MigrationRequest("downgrade", "-1"))
    assert undone == ["-1"]


async def test_a_relative_downgrade_is_not_repeated_when_it_cannot_be_verified(database: Database) -> None:
    """A downgrade by -1 commits, and the verification cannot connect: the command fails and does not run it again."""
    undone: list[str] = []

    async def undo(session: FakeSession, request: MigrationRequest, listener: ProgressListener) -> None:
        undone.append(request.target)
        database.refused_connections = 1

    database.observed, database.work = Observed(frozenset("c")), undo
    with pytest.raises(MigrationError, match="is not repeated"):
        await Instance(database).coordinator.execute(MigrationRequest("downgrade", "-1"))
    assert undone == ["-1"]
