"""What to do next, decided from values alone: no clock, no database, nothing awaited."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from .ports import Failure
from .schema import Schema, SchemaState


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
    target: str = "head"
    release: str | None = None


def decide(schema: Schema, policy: Policy, *, locked: bool = False, failure: Failure | None = None) -> Action:
    """The next action, from what is known right now.

    Args:
        schema: the database, judged against this build.
        policy: the settings.
        locked: this instance holds the lock.
        failure: an attempt that failed since this instance started, if any.
    """
    match schema.state:
        case SchemaState.AT_HEAD:
            return Action.SERVE
        case SchemaState.AHEAD if policy.serve_ahead:
            return Action.SERVE
        case SchemaState.AHEAD | SchemaState.DIVERGED:
            return Action.REFUSE
        # a migration in progress looks like this too; only under the lock it means an accident
        case SchemaState.DIRTY:
            return Action.REFUSE if locked else Action.TRY_LOCK if policy.may_migrate else Action.WAIT
    if not policy.may_migrate:
        return Action.WAIT
    if failure is not None and failure.revision in schema.pending and failure.release == policy.release:
        return Action.GIVE_UP
    return Action.MIGRATE if locked else Action.TRY_LOCK
