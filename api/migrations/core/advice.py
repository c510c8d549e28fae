"""Says what a person should do now, from a status alone.

A session is named only while it is seen to block the migration, because later its pid may be another session's.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from ..errors import COMMAND, DatabaseUnreachable, MigrationError, WaitTimeout
from .remedies import BLOCKED, HISTORY, OLD_INSTANCES, STATUS, UPGRADE, Advice, drop_invalid, refused, remedy_for
from .schema import SchemaState
from .status import Phase, Status
from .termination import psql, terminate_blockers

STUCK = "Stuck migration"
WAIT, UNLOCK = f"{COMMAND} wait", f"{COMMAND} unlock"


def advise(status: Status, now: float) -> Advice | None:
    """Return what to do in the state of `status`, None if nothing; `now` is in epoch seconds."""
    if status.ready or status.phase is Phase.DRAINING:
        return _while_ready(status)
    if status.phase is not Phase.FAILED:
        advice = _unreachable(status) or _while_held(status, now) or _while_free(status, now)
        if advice is None and status.phase in {Phase.CHECKING, Phase.VERIFYING}:
            advice = Advice("Wait: this instance reads the database.", "Where to look first", (STATUS,))
        return advice
    if not status.held:
        return _after_failure(status)
    # it has looked again
    advice = _unreachable(status) or _while_held(status, now) or _after_failure(status)
    return replace(advice, text=f"{advice.text} This instance becomes ready by itself once the database is at head.")


def _while_ready(status: Status) -> Advice | None:
    schemas = (status.schema, *status.scopes.values())
    ahead = next((schema for schema in schemas if schema.state is SchemaState.AHEAD), None)
    if ahead is not None:
        return refused(ahead)
    return drop_invalid(status.invalid_indexes) if status.invalid_indexes else None


def _after_failure(status: Status) -> Advice:
    if (advice := refused(status.schema)) is not None:
        return advice
    error, seen = status.error_class or MigrationError, status.at_failure
    return BLOCKED if issubclass(error, WaitTimeout) and seen and seen.blocked_by else remedy_for(error)


def _unreachable(status: Status) -> Advice | None:
    if status.reachable is not False:
        return None
    error = status.error_class or DatabaseUnreachable
    # a held instance has failed for another reason
    advice = remedy_for(error if issubclass(error, DatabaseUnreachable) else DatabaseUnreachable)
    return replace(advice, text=f"{advice.text} The instance connects again by itself.")


def _while_held(status: Status, now: float) -> Advice | None:
    """Return what to do while the lock has a holder; None if it is free."""
    lock, own = status.lock_status, status.phase is Phase.MIGRATING
    if any(blocker.lacks for blocker in lock.blocked_by):
        how = "Finish the deploy of a release that contains it, or stop those instances."
        text = f"Instances of older builds block a contract revision. {how} An instance that waits then migrates."
        return replace(OLD_INSTANCES, text=text, commands=OLD_INSTANCES.commands[:1])
    if lock.holder is None and not own:
        return None
    if lock.blocked_by:
        how, commands = terminate_blockers(lock)
        return Advice(f"Another session blocks the migration. {how}", STUCK, commands)
    name = "this instance" if own or lock.holder is None else lock.holder.instance
    next_try_at = now + lock.retry.seconds if lock.retry else status.progress.next_try_at
    if next_try_at is not None and next_try_at > now:
        text = f"Wait: {name} tries again at {_clock(next_try_at)}; no session that blocked it is there any more."
        return Advice(text, STUCK, (WAIT,))
    if lock.statement is not None:
        return Advice(f"Wait: {name} executes {lock.statement.kind}.", STUCK, (WAIT,))
    if own:
        return Advice("Wait: this instance runs a revision, between two statements.", STUCK, (WAIT,))
    return _silent(status, name)


def _silent(status: Status, name: str) -> Advice:
    """Return what to do about another session that holds the lock and is not seen to execute a statement."""
    lock, holder = status.lock_status, status.lock_status.holder
    assert holder is not None
    if holder.pid is None:
        return Advice(f"Wait: {name} is elected, and acquires the lock next.", STUCK, (WAIT,))
    if holder.state is None and lock.grant is not None:
        text = f"This role cannot see what {name} executes. A superuser can let it see that."
        return Advice(text, STUCK, (psql(lock.grant, superuser=True), STATUS))
    if holder.state is None:
        text = (
            f"Wait until {name} has migrated; this database does not show what it executes. If it does not run any "
            f"more, '{UNLOCK}' says what releases the lock."
        )
        return Advice(text, "Not PostgreSQL", (WAIT,))
    if lock.silent_seconds is not None:
        cause = f"The process of {name} stopped while it sent a statement: it is frozen, or its host is gone."
    else:
        cause = f"{name} executes no statement. If its revision computes in Python, wait; else its process is frozen."
    text = f"{cause} Its session is terminated after MIGRATION_IDLE_SECONDS, or at once by 'unlock'."
    return Advice(text, STUCK, (UNLOCK,))


def _while_free(status: Status, now: float) -> Advice | None:
    """Return what to do while no session holds the lock."""
    if (advice := refused(status.schema)) is not None or not status.schema.pending:
        return advice or _while_ready(status)
    if status.strategy == "job":
        return Advice("No instance migrates with strategy job. Run the job of the release, or this:", STUCK, (UPGRADE,))
    next_try_at = status.progress.next_try_at
    if status.recent and status.recent[0].outcome == "failed":
        when = f" at {_clock(next_try_at)}" if next_try_at and next_try_at > now else ""
        text = (
            f"The last attempt failed. Correct the data, and migrate at once; or wait: an instance tries again{when}."
        )
        return Advice(text, "Failed migration", (HISTORY, UPGRADE))
    text = "Wait: an instance that waits acquires the lock within seconds. If no instance waits, migrate:"
    return Advice(text, STUCK, (UPGRADE,))


def _clock(epoch_seconds: float) -> str:
    return f"{datetime.fromtimestamp(epoch_seconds, UTC):%H:%M:%S} UTC"
