"""The full table of decisions: what an instance does next, from what it knows right now, and what comes of it."""

import pytest

from api.migrations.core.decision import Action, AttemptHistory, Policy, assess_attempts, decide
from api.migrations.core.protocols import MigrationRequest, PastAttempt, ProgressListener
from api.migrations.core.schema import CodeRevisions, HalfApplied, Observed, Schema, SchemaState
from api.migrations.core.status import Holder, Phase
from api.migrations.errors import MigrationError, SchemaRefused, WaitTimeout
from tests.support.fakes import Database, FakeClock, FakeSession, Instance

SERVE, TRY, MIGRATE = Action.SERVE, Action.TRY_LOCK, Action.MIGRATE
WAIT, REFUSE, GIVE_UP = Action.WAIT, Action.REFUSE, Action.GIVE_UP

FAILED = AttemptHistory(PastAttempt("b", "failed", "other-1", "v2", "revision b failed", 1.0), seen=True)
MATCHING = Policy(release="v2")
PENDING = ("b", "c")
CODE = CodeRevisions({"a": frozenset(), "b": frozenset("a"), "c": frozenset("b")}, frozenset("c"))

# state, and the action: without the lock, with it, as a job's waiter, after a failure seen without and with the lock
TABLE = [
    (SchemaState.EMPTY, TRY, MIGRATE, WAIT, GIVE_UP, GIVE_UP),
    (SchemaState.BEHIND, TRY, MIGRATE, WAIT, GIVE_UP, GIVE_UP),
    (SchemaState.AT_HEAD, SERVE, SERVE, SERVE, SERVE, SERVE),
    (SchemaState.AHEAD, SERVE, SERVE, SERVE, SERVE, SERVE),
    (SchemaState.DIVERGED, REFUSE, REFUSE, REFUSE, REFUSE, REFUSE),
    (SchemaState.DIRTY, TRY, REFUSE, WAIT, TRY, REFUSE),
]
STATES = [row[0] for row in TABLE]


@pytest.fixture
def database() -> Database:
    """An empty database."""
    return Database(CODE, FakeClock())


def schema(state: SchemaState) -> Schema:
    """A judged database; only where something is pending can something be pending."""
    pending = PENDING if state in {SchemaState.EMPTY, SchemaState.BEHIND, SchemaState.DIRTY} else ()
    return Schema(state, pending=pending)


def test_the_table_is_complete() -> None:
    """Every state that a look can produce has its row."""
    assert {*STATES, SchemaState.UNKNOWN} == set(SchemaState)


@pytest.mark.parametrize(("state", "unlocked", "locked", "job", "failed", "failed_locked"), TABLE, ids=STATES)
def test_the_next_action(
    state: SchemaState, unlocked: Action, locked: Action, job: Action, failed: Action, failed_locked: Action
) -> None:
    """One row of the table."""
    found = schema(state)
    assert decide(found, MATCHING) is unlocked
    assert decide(found, MATCHING, locked=True) is locked
    assert decide(found, Policy(may_migrate=False, release="v2")) is job
    assert decide(found, MATCHING, attempt_history=FAILED) is failed
    assert decide(found, MATCHING, locked=True, attempt_history=FAILED) is failed_locked


@pytest.mark.parametrize("locked", [False, True])
def test_ahead_is_refused_where_the_policy_says_so(locked: bool) -> None:
    """MIGRATION_ON_AHEAD=refuse."""
    assert decide(schema(SchemaState.AHEAD), Policy(serve_ahead=False), locked=locked) is REFUSE


def test_serving_ahead_never_extends_to_diverged() -> None:
    """Without the proof of the history nothing serves."""
    assert decide(schema(SchemaState.DIVERGED), Policy(serve_ahead=True)) is REFUSE


def past(outcome: str, age_seconds: float, release: str | None = "v2") -> PastAttempt:
    """An attempt at revision b."""
    error = "revision b failed" if outcome == "failed" else None
    return PastAttempt("b", outcome, "other-1", release, error, age_seconds)


def test_a_failure_counts_as_seen_while_the_instance_lives() -> None:
    """What ended before this instance began is for a new try; what ended since is not."""
    assert assess_attempts([past("failed", 3)], MATCHING, lived_seconds=5).seen
    assert not assess_attempts([past("failed", 3)], MATCHING, lived_seconds=2).seen


@pytest.mark.parametrize("release", [None, "v3"])
def test_the_failure_of_another_release_is_tried_again(release: str | None) -> None:
    """A new release may carry the repaired revision."""
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
def test_the_pause_grows_with_each_failure(outcomes: list[str], pause: float) -> None:
    """10 s, doubling to 5 min; one death is free, for the process that died is replaced at once."""
    assert assess_attempts([past(outcome, 0) for outcome in outcomes], MATCHING, lived_seconds=0).pause_seconds == pause


def test_the_pause_runs_from_the_last_attempt() -> None:
    """After its end nobody waits for it."""
    assert assess_attempts([past("failed", 4)], MATCHING, lived_seconds=0).pause_seconds == 6
    assert assess_attempts([past("failed", 11)], MATCHING, lived_seconds=0).pause_seconds == 0


def test_an_operator_does_not_pause() -> None:
    """`./migrate.sh upgrade` tries at once."""
    operator = Policy(release="v2", backs_off=False)
    assert assess_attempts([past("failed", 0)], operator, lived_seconds=0).pause_seconds == 0


def test_a_pause_is_a_wait_with_and_without_the_lock() -> None:
    """The lock is given back rather than held through the pause."""
    pausing = AttemptHistory(pause_seconds=7)
    assert decide(schema(SchemaState.BEHIND), MATCHING, attempt_history=pausing) is WAIT
    assert decide(schema(SchemaState.BEHIND), MATCHING, locked=True, attempt_history=pausing) is WAIT


def test_a_waiter_for_a_job_is_not_stopped_by_its_failure() -> None:
    """The job may be started again within the wait budget."""
    assert decide(schema(SchemaState.BEHIND), Policy(may_migrate=False, release="v2"), attempt_history=FAILED) is WAIT


async def test_success_that_changed_nothing_is_an_error(database: Database) -> None:
    """Alembic reports success on a connection that it does not use."""

    async def nothing(session: FakeSession, request: MigrationRequest, listener: ProgressListener) -> None:
        listener.planned((), "Applied")

    database.work = nothing
    await Instance(database).fails(MigrationError, "reported success", "at base")
    assert database.holder is None


async def test_dirty_under_the_lock_is_refused(database: Database) -> None:
    """Nobody is at it, so it is an accident; the lock is free again."""
    database.observed = Observed(frozenset("a"), (HalfApplied("b"),))
    await Instance(database).fails(SchemaRefused, "revision b committed a part")
    assert (database.runs, database.holder) == ([], None)


async def test_dirty_while_somebody_migrates_is_waited_for(database: Database) -> None:
    """A concurrent index in progress looks like that."""
    database.observed, database.holder = Observed(frozenset("a"), (HalfApplied("b"),)), Holder("other-1", 4242)
    instance = Instance(database, policy=Policy(wait_seconds=5))
    await instance.fails(WaitTimeout, "other-1")
    assert not instance.tracker.status.schema.half_applied


async def test_diverged_is_refused_at_once(database: Database) -> None:
    """There is nothing to wait for."""
    database.observed = Observed(frozenset("zz"))
    await Instance(database).fails(SchemaRefused, "diverged")
    assert (database.tries, database.clock.slept) == ([], [])


async def test_ahead_serves_with_its_message(database: Database) -> None:
    """The history proves that the head is an ancestor."""
    database.observed, database.lineage = Observed(frozenset("d")), {"d": frozenset("c")}
    instance = Instance(database)
    await instance.coordinator.become_ready()
    assert instance.phase is Phase.READY
    assert "ahead" in (instance.tracker.status.message or "")


async def test_the_job_policy_never_locks(database: Database) -> None:
    """Waiting for a job, an instance does not even try."""
    await Instance(database, policy=Policy(may_migrate=False, wait_seconds=20)).fails(WaitTimeout, "no session holds")
    assert (database.tries, database.runs) == ([], [])


@pytest.mark.parametrize("kind", ["upgrade", "downgrade"])
async def test_an_order_is_refused_on_what_is_unclear(database: Database, kind: str) -> None:
    """Also by hand nothing runs on a diverged or dirty database."""
    database.observed = Observed(frozenset("a"), (HalfApplied("b"),))
    request = MigrationRequest(kind, "head")  # type: ignore[arg-type]
    with pytest.raises(SchemaRefused):
        await Instance(database).coordinator.execute(request)
    assert database.runs == []


async def test_at_head_nobody_asks_for_the_lock(database: Database) -> None:
    """Replicas must not queue up to find that nothing is to be done."""
    database.observed = Observed(frozenset("c"))
    instance = Instance(database)
    await instance.coordinator.become_ready()
    assert (instance.phase, database.tries) == (Phase.READY, [])
