"""The next action of an instance for each state of the schema, with and without the lock, and what it leads to."""

from dataclasses import replace

import pytest

from api.migrations.core.decision import Action, AttemptHistory, Policy, assess_attempts, decide
from api.migrations.core.protocols import MigrationRequest, PastAttempt, ProgressListener
from api.migrations.core.schema import CodeRevisions, HalfApplied, Observed, Schema, SchemaState
from api.migrations.core.status import Holder, Phase
from api.migrations.errors import MigrationError, SchemaRefused, WaitTimeout
from tests.support.fakes import Database, FakeClock, FakeSession, Instance, apply_all

SERVE, TRY, MIGRATE = Action.SERVE, Action.TRY_LOCK, Action.MIGRATE
WAIT, REFUSE, GIVE_UP = Action.WAIT, Action.REFUSE, Action.GIVE_UP

FAILED = AttemptHistory(PastAttempt("b", "failed", "other-1", "v2", "revision b failed", 1.0), seen=True)
MATCHING = Policy(release="v2")
PENDING = ("b", "c")
CODE = CodeRevisions({"a": frozenset(), "b": frozenset("a"), "c": frozenset("b")}, frozenset("c"))

# state, then the action without the lock, with it, behind a job, and after a failure without and with the lock
TABLE = [
    (SchemaState.EMPTY, TRY, MIGRATE, WAIT, GIVE_UP, GIVE_UP),
    (SchemaState.UNVERSIONED, TRY, REFUSE, WAIT, TRY, REFUSE),
    (SchemaState.BEHIND, TRY, MIGRATE, WAIT, GIVE_UP, GIVE_UP),
    (SchemaState.AT_HEAD, SERVE, SERVE, SERVE, SERVE, SERVE),
    (SchemaState.AHEAD, SERVE, SERVE, SERVE, SERVE, SERVE),
    (SchemaState.DIVERGED, REFUSE, REFUSE, REFUSE, REFUSE, REFUSE),
    (SchemaState.DIRTY, TRY, REFUSE, WAIT, TRY, REFUSE),
]
STATES = [row[0] for row in TABLE]
WITH_PENDING = (SchemaState.EMPTY, SchemaState.BEHIND)


@pytest.fixture
def database() -> Database:
    """Return an empty database."""
    return Database(CODE, FakeClock())


def schema(state: SchemaState) -> Schema:
    """Return a schema in that state; only the states behind the head have pending revisions."""
    pending = PENDING if state in {*WITH_PENDING, SchemaState.UNVERSIONED, SchemaState.DIRTY} else ()
    return Schema(state, pending=pending)


def test_the_table_has_a_row_for_each_state() -> None:
    """Every state of a schema that was read has a row in the table of this module."""
    assert {*STATES, SchemaState.UNKNOWN} == set(SchemaState)


@pytest.mark.parametrize(("state", "unlocked", "locked", "job", "failed", "failed_locked"), TABLE, ids=STATES)
def test_an_instance_takes_the_action_of_the_table(
    state: SchemaState, unlocked: Action, locked: Action, job: Action, failed: Action, failed_locked: Action
) -> None:
    """The instance takes the action of the table: without the lock, with it, behind a job, and after a failure."""
    found = schema(state)
    assert decide(found, MATCHING) is unlocked
    assert decide(found, MATCHING, locked=True) is locked
    assert decide(found, Policy(may_migrate=False, release="v2")) is job
    assert decide(found, MATCHING, attempt_history=FAILED) is failed
    assert decide(found, MATCHING, locked=True, attempt_history=FAILED) is failed_locked


def test_an_unversioned_schema_is_stamped_before_the_upgrade() -> None:
    """With a baseline the lock holder stamps an unversioned schema; each other pending schema it upgrades."""
    policy = Policy(baseline="b")
    assert decide(schema(SchemaState.UNVERSIONED), policy, locked=True) is MIGRATE
    requests = [policy.request(schema(state)) for state in (SchemaState.UNVERSIONED, *WITH_PENDING)]
    assert [(request.kind, request.target) for request in requests] == [("stamp", "b"), *[("upgrade", "head")] * 2]
    assert decide(schema(SchemaState.UNVERSIONED), Policy(baseline="b", may_migrate=False)) is WAIT


def test_only_an_empty_schema_without_tables_is_created_from_the_models() -> None:
    """With create_all the lock holder creates an empty schema; with tables in it, or behind, it runs the revisions."""
    policy, empty = Policy(baseline="b", create_all=True), schema(SchemaState.EMPTY)
    request = policy.request(empty)
    assert (request.kind, request.target, request.create_all) == ("upgrade", "head", True)
    others = [replace(empty, other_tables=("left_over",)), *map(schema, set(STATES) - {SchemaState.EMPTY})]
    assert not any(policy.request(each).create_all for each in others)
    assert not Policy().request(empty).create_all


def test_an_instance_at_head_waits_for_after() -> None:
    """At head without `after` an instance migrates, or waits for the job; with it, or without a function, it serves."""
    lacking, done = schema(SchemaState.AT_HEAD), Schema(SchemaState.AT_HEAD, completed=True)
    policy = Policy(after=True)
    assert [decide(lacking, policy), decide(lacking, policy, locked=True)] == [TRY, MIGRATE]
    assert decide(lacking, Policy(after=True, may_migrate=False)) is WAIT
    assert decide(lacking, policy, locked=True, attempt_history=FAILED) is GIVE_UP
    assert [decide(done, policy), decide(lacking, Policy())] == [SERVE, SERVE]


@pytest.mark.parametrize("locked", [False, True])
def test_a_schema_ahead_is_refused_if_the_policy_says_so(locked: bool) -> None:
    """MIGRATION_ON_AHEAD=refuse makes an instance refuse a schema that is ahead of its build."""
    assert decide(schema(SchemaState.AHEAD), Policy(serve_ahead=False), locked=locked) is REFUSE


def test_a_diverged_schema_is_refused_although_ahead_is_served() -> None:
    """An instance that may serve a schema ahead of its build still refuses a diverged one."""
    assert decide(schema(SchemaState.DIVERGED), Policy(serve_ahead=True)) is REFUSE


def past(outcome: str, age_seconds: float, release: str | None = "v2") -> PastAttempt:
    """Return an attempt at revision b."""
    error = "revision b failed" if outcome == "failed" else None
    return PastAttempt("b", outcome, "other-1", release, error, age_seconds)


def test_a_failure_counts_if_it_is_newer_than_the_instance() -> None:
    """The instance counts a failure since its own start, and not one from before it."""
    assert assess_attempts([past("failed", 3)], MATCHING, lived_seconds=5).seen
    assert not assess_attempts([past("failed", 3)], MATCHING, lived_seconds=2).seen


@pytest.mark.parametrize("release", [None, "v3"])
def test_another_release_s_failure_does_not_count(release: str | None) -> None:
    """A failure of another release, whose revision may differ, does not keep the instance from retrying."""
    assert assess_attempts([past("failed", 3)], Policy(release=release), lived_seconds=5) == AttemptHistory()


@pytest.mark.parametrize(
    ("outcomes", "pause"),
    [
        ([], 0),
        (["running"], 0),
        (["interrupted"], 0),
        (["interrupted", "interrupted"], 10),
        (["failed"], 10),
        (["failed", "failed"], 20),
        (["failed", "interrupted", "failed", "interrupted"], 40),
        (["failed"] * 10, 300),
        (["applied", "failed"], 0),
        (["failed", "applied", "failed"], 10),
    ],
)
def test_the_pause_doubles_with_each_failure(outcomes: list[str], pause: float) -> None:
    """The pause before the next attempt is 10 s, doubles up to 300 s, and one interrupted attempt causes none."""
    assert assess_attempts([past(outcome, 0) for outcome in outcomes], MATCHING, lived_seconds=0).pause_seconds == pause


def test_the_pause_counts_from_the_end_of_the_last_attempt() -> None:
    """4 s after a failure 6 s of the pause are left, and after 11 s none."""
    assert assess_attempts([past("failed", 4)], MATCHING, lived_seconds=0).pause_seconds == 6
    assert assess_attempts([past("failed", 11)], MATCHING, lived_seconds=0).pause_seconds == 0


def test_a_command_does_not_pause_after_a_failure() -> None:
    """`./migrate.sh upgrade` runs immediately after a failure."""
    operator = Policy(release="v2", backs_off=False)
    assert assess_attempts([past("failed", 0)], operator, lived_seconds=0).pause_seconds == 0


def test_a_pausing_instance_waits_with_and_without_the_lock() -> None:
    """During the pause after a failure the instance waits, also if it has just acquired the lock."""
    pausing = AttemptHistory(pause_seconds=7)
    assert decide(schema(SchemaState.BEHIND), MATCHING, attempt_history=pausing) is WAIT
    assert decide(schema(SchemaState.BEHIND), MATCHING, locked=True, attempt_history=pausing) is WAIT


def test_an_instance_keeps_waiting_when_the_job_fails() -> None:
    """An instance that waits for a job keeps waiting after the job's failure, because the job may be retried."""
    assert decide(schema(SchemaState.BEHIND), Policy(may_migrate=False, release="v2"), attempt_history=FAILED) is WAIT


async def test_a_run_that_reports_success_but_changes_nothing_fails(database: Database) -> None:
    """Alembic reports success and the schema is unchanged: the instance fails and releases the lock."""

    async def nothing(session: FakeSession, request: MigrationRequest, listener: ProgressListener) -> None:
        listener.planned((), "Applied")

    database.work = nothing
    await Instance(database).fails(MigrationError, "reported success", "at base")
    assert database.holder is None


async def test_a_half_applied_revision_is_refused_by_the_lock_holder(database: Database) -> None:
    """The lock holder finds a half-applied revision: it refuses to migrate and releases the lock."""
    database.observed = Observed(frozenset("a"), (HalfApplied("b"),))
    await Instance(database).fails(SchemaRefused, "revision b committed a part")
    assert (database.runs, database.holder) == ([], None)


async def test_a_waiter_waits_for_a_half_applied_revision_of_the_holder(database: Database) -> None:
    """A revision is half applied while another session holds the lock: the instance waits and reports no repair."""
    database.observed, database.holder = Observed(frozenset("a"), (HalfApplied("b"),)), Holder("other-1", 4242)
    instance = Instance(database, policy=Policy(wait_seconds=5))
    await instance.fails(WaitTimeout, "other-1")
    assert not instance.tracker.status.schema.half_applied


async def test_a_diverged_schema_is_refused_at_once(database: Database) -> None:
    """The instance refuses a diverged schema without waiting and without trying the lock."""
    database.observed = Observed(frozenset("zz"))
    await Instance(database).fails(SchemaRefused, "diverged")
    assert (database.tries, database.clock.slept) == ([], [])


async def test_an_instance_serves_a_schema_ahead_of_its_build(database: Database) -> None:
    """The history proves that the schema descends from the build's head: the instance is ready and says "ahead"."""
    database.observed, database.lineage = Observed(frozenset("d")), {"d": frozenset("c")}
    instance = Instance(database)
    await instance.coordinator.become_ready()
    assert instance.phase is Phase.READY
    assert "ahead" in (instance.tracker.status.message or "")


async def test_an_instance_that_waits_for_a_job_never_tries_the_lock(database: Database) -> None:
    """The job does not run: an instance that waits for it times out without trying the lock."""
    await Instance(database, policy=Policy(may_migrate=False, wait_seconds=20)).fails(WaitTimeout, "no session holds")
    assert (database.tries, database.runs) == ([], [])


async def test_the_lock_holder_stamps_the_baseline_and_upgrades_above_it(database: Database) -> None:
    """A database with tables and no revision gets the baseline as its revision, then the revisions above it."""

    async def stamp_first(session: FakeSession, request: MigrationRequest, listener: ProgressListener) -> None:
        done.append(f"{request.kind} {request.target}")
        if request.kind == "stamp":
            database.observed = Observed(frozenset({request.target}))
        else:
            await apply_all(session, request, listener)

    done: list[str] = []
    database.observed, database.work = Observed(other_tables=("legacy",)), stamp_first
    instance = Instance(database, policy=Policy(baseline="b"))
    await instance.coordinator.become_ready()
    assert (instance.phase, done, database.observed.revisions) == (
        Phase.READY,
        ["stamp b", "upgrade head"],
        frozenset("c"),
    )


async def test_an_unversioned_database_is_refused_under_the_lock(database: Database) -> None:
    """Without a baseline the lock holder refuses a database with tables and no revision, and releases the lock."""
    database.observed = Observed(other_tables=("legacy",))
    await Instance(database).fails(SchemaRefused, "legacy", "stamp REV", "MIGRATION_BASELINE=REV")
    assert (database.runs, database.holder) == ([], None)


@pytest.mark.parametrize("kind", ["upgrade", "downgrade"])
async def test_a_command_refuses_a_half_applied_schema(database: Database, kind: str) -> None:
    """An upgrade or a downgrade by command refuses a half-applied schema and runs nothing."""
    database.observed = Observed(frozenset("a"), (HalfApplied("b"),))
    request = MigrationRequest(kind, "head")  # type: ignore[arg-type]
    with pytest.raises(SchemaRefused):
        await Instance(database).coordinator.execute(request)
    assert database.runs == []


async def test_an_instance_at_head_does_not_try_the_lock(database: Database) -> None:
    """The schema is at head: the instance becomes ready without trying the lock."""
    database.observed = Observed(frozenset("c"))
    instance = Instance(database)
    await instance.coordinator.become_ready()
    assert (instance.phase, database.tries) == (Phase.READY, [])
