"""Decides what an instance does next, from values alone: without a clock, a database or an await."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from itertools import takewhile

from ..errors import COMMAND, AlreadyFailed, MigrationError, SchemaRefused
from .protocols import MigrationRequest, PastAttempt
from .schema import Observed, Schema, SchemaState, explain

FIRST_PAUSE_SECONDS = 10.0
LONGEST_PAUSE_SECONDS = 300.0
_GOOD = frozenset({"applied", "stamped"})
_BASELINE = "MIGRATION_BASELINE: tables existed without a revision"
_CREATE_ALL = "MIGRATION_BOOTSTRAP=create_all: the tables were created from the models"


class Action(Enum):
    """What to do next."""

    SERVE = auto()
    TRY_LOCK = auto()
    MIGRATE = auto()
    WAIT = auto()
    REFUSE = auto()
    GIVE_UP = auto()


@dataclass(frozen=True)
class Policy:
    """The settings that decide. Durations in seconds."""

    wait_seconds: float = 300.0
    run_seconds: float = 300.0
    poll_seconds: float = 1.0
    serve_ahead: bool = True
    may_migrate: bool = True
    backs_off: bool = True
    """Whether to pause before a failed revision is retried; an operator's command does not pause."""
    target: str = "head"
    release: str | None = None
    baseline: str | None = None
    """The revision to stamp on an unversioned database; without one it is refused."""
    create_all: bool = False
    """Whether an empty database gets the tables of the models instead of all revisions."""
    despite_instances: bool = False
    """Whether a contract revision runs even if instances of older builds are connected."""
    after: bool = False
    """Whether the application has a function `after`, which must have run for the head."""

    def satisfied(self, schema: Schema) -> bool:
        """Return whether the schema is at head, and the function `after` ran for this head."""
        return schema.state is SchemaState.AT_HEAD and (schema.completed or not self.after)

    @property
    def upgrade(self) -> MigrationRequest:
        """The upgrade to the target."""
        return MigrationRequest("upgrade", self.target, despite_instances=self.despite_instances)

    def request(self, schema: Schema) -> MigrationRequest:
        """Return what the lock holder runs: the upgrade, or before it the stamp of the baseline.

        The upgrade of an empty database may create the tables of the models, unless an earlier run left any tables.
        """
        if schema.state is SchemaState.UNVERSIONED and self.baseline is not None:
            return MigrationRequest("stamp", self.baseline, note=_BASELINE)
        if schema.state is SchemaState.EMPTY and self.create_all and not schema.other_tables:
            return replace(self.upgrade, create_all=True, note=_CREATE_ALL)
        return self.upgrade


@dataclass(frozen=True)
class AttemptHistory:
    """The earlier attempts at the next revision."""

    failure: PastAttempt | None = None
    """The newest failure of this release, if any."""
    seen: bool = False
    """Whether it happened while this instance was running."""
    pause_seconds: float = 0.0
    """The pause before the next attempt."""


def assess_attempts(attempts: Sequence[PastAttempt], policy: Policy, lived_seconds: float) -> AttemptHistory:
    """Assess the attempts, newest first, by this instance's release and age.

    A failure during the instance's life is not repeated. An older one is retried after a pause (10 s, doubling to
    5 min), because each attempt locks the table again. If a process died in an attempt, the next one starts at once;
    if that one dies too, the revision may be the cause.
    """
    mine = list(takewhile(lambda past: past.release == policy.release and past.outcome not in _GOOD, attempts))
    failures = [past for past in mine if past.error is not None]
    failure = failures[0] if failures else None
    tries = len(failures) + max(0, len(mine) - len(failures) - 1)
    if not tries or not policy.backs_off:
        pause = 0.0
    else:
        pause = max(0.0, min(FIRST_PAUSE_SECONDS * 2.0 ** (tries - 1), LONGEST_PAUSE_SECONDS) - mine[0].age_seconds)
    return AttemptHistory(failure, failure is not None and failure.age_seconds <= lived_seconds, pause)


def decide(
    schema: Schema, policy: Policy, *, locked: bool = False, attempt_history: AttemptHistory = AttemptHistory()
) -> Action:
    """Return the next action; `locked` says whether this instance holds the lock."""
    stopped = Action.REFUSE if locked else Action.TRY_LOCK if policy.may_migrate else Action.WAIT
    match schema.state:
        case SchemaState.AT_HEAD if policy.satisfied(schema):
            return Action.SERVE
        case SchemaState.AHEAD if policy.serve_ahead and not schema.contracted:
            return Action.SERVE
        case SchemaState.AHEAD | SchemaState.DIVERGED:
            return Action.REFUSE
        # a migration in progress is in this state too; only under the lock it is an accident
        case SchemaState.DIRTY:
            return stopped
        # another session may be about to stamp it
        case SchemaState.UNVERSIONED if policy.baseline is None:
            return stopped
    if not policy.may_migrate:
        return Action.WAIT
    if attempt_history.seen:
        return Action.GIVE_UP
    if attempt_history.pause_seconds:
        return Action.WAIT
    return Action.MIGRATE if locked else Action.TRY_LOCK


def refusal(action: Action, schema: Schema, attempt_history: AttemptHistory) -> MigrationError:
    """Return the error for an action that ends the start without a verified schema."""
    failure = attempt_history.failure
    if action is Action.GIVE_UP and failure is not None:
        return AlreadyFailed(
            f"{failure.message} (on instance {failure.instance}, while this instance waited; it is not retried here: "
            "correct the cause, then start again)",
            revision=failure.revision,
        )
    if action is Action.REFUSE:
        return SchemaRefused(explain(schema))
    return MigrationError(
        f"Alembic reported success, but {explain(schema)}. To fix: correct alembic/env.py, which does not run the "
        "revisions that it is given"
    )


def refuse_if_settled(observed: Observed, revision: str) -> None:
    """Raise `MigrationError` unless the revision is still half applied under the lock."""
    if revision not in {half.revision for half in observed.half_applied}:
        raise MigrationError(
            f"revision {revision} is not half applied any more: the lock holder finished it, or an operator repaired "
            f"it. Nothing was changed. To fix: run '{COMMAND} status' and decide again"
        )
