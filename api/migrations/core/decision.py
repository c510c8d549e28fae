"""What to do next, decided from values alone: no clock, no database, nothing awaited."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from itertools import takewhile

from .protocols import PastAttempt
from .schema import Schema, SchemaState

FIRST_PAUSE_SECONDS = 10.0
LONGEST_PAUSE_SECONDS = 300.0
_GOOD = frozenset({"applied", "stamped"})


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
    """Leave a revision that failed alone for a while; an operator's command does not."""
    target: str = "head"
    release: str | None = None


@dataclass(frozen=True)
class AttemptHistory:
    """What earlier attempts at the next revision say."""

    failure: PastAttempt | None = None
    """The newest failure of this release, if any."""
    seen: bool = False
    """It happened while this instance was there."""
    pause_seconds: float = 0.0
    """How long to leave the revision alone."""


def assess_attempts(attempts: Sequence[PastAttempt], policy: Policy, lived_seconds: float) -> AttemptHistory:
    """Judge the attempts, newest first, against this instance's release and age.

    A failure that this instance has seen is not repeated. One from before is tried again, but each time later
    (10 s, doubling to 5 min), because each try takes the table's lock again. A process that died in an attempt is
    replaced at once; if the next one dies too, it may be the revision that kills.
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
    """The next action, from what is known right now.

    Args:
        schema: the database, judged against this build.
        policy: the settings.
        locked: this instance holds the lock.
        attempt_history: what earlier attempts at the next revision say.
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
    if attempt_history.seen:
        return Action.GIVE_UP
    if attempt_history.pause_seconds:
        return Action.WAIT
    return Action.MIGRATE if locked else Action.TRY_LOCK
