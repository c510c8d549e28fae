"""Turns the error of a run into a `MigrationError`, and records the failure of its revision."""

from __future__ import annotations

import asyncio
import logging
import re
from typing import Any, NoReturn

import asyncpg
import sqlalchemy as sa
from alembic.util import CommandError

from ..core.protocols import MigrationRequest
from ..core.schema import RUNS_AGAIN, repair_advice
from ..errors import (
    ConnectionLost,
    DatabaseUnreachable,
    DirectConnectionNeeded,
    LockContended,
    MigrationError,
    RevisionFailed,
    SchemaRefused,
    UnknownRevision,
    in_full,
)
from ..runtime.cancellation import is_cancelled
from .bootstrap import CREATING, advice
from .error_translation import contended, describe, lost, remedy, root, translate, where
from .history_table import Outcome
from .revisions import Revisions, unknown
from .steps import Steps
from .version_ids import explained

log = logging.getLogger(__name__)


def raise_failure(error: BaseException, request: MigrationRequest, steps: Steps, revisions: Revisions) -> NoReturn:
    """Raise the cancellation that ended a run, or else what `failure_of` returns."""
    # SystemExit too: a revision that calls exit(0) must not end the process as if it had succeeded
    if isinstance(cause_of(error, steps.connection), asyncio.CancelledError) and is_cancelled():
        raise asyncio.CancelledError from error
    raise failure_of(error, request, steps, revisions) from error


def failure_of(error: BaseException, request: MigrationRequest, steps: Steps, revisions: Revisions) -> MigrationError:
    """Return the `MigrationError` for an error of a run, and record the failure of its revision on its connection."""
    error = cause_of(error, steps.connection)
    if isinstance(error, DirectConnectionNeeded) and steps.current is not None:
        error = DirectConnectionNeeded.for_block(revisions.describe(steps.current))
        _record(steps, str(error), type(error).__name__, Outcome.FAILED)
    if isinstance(error, MigrationError):
        return error
    # asyncpg raises InterfaceError for a lost connection and for wrong arguments, and a revision may open a file
    # that does not exist: if the connection is not dead, the revision failed
    ambiguous = isinstance(root(error), asyncpg.InterfaceError | OSError)
    if _is_dead(steps.connection) or (lost(error) and not ambiguous):
        return _connection_lost(error, request, steps, revisions)
    if steps.current is None:
        return unresolved(error, request) if isinstance(error, CommandError) else translate(error, "migrating")
    creates, path = request.create_all and steps.title is None, revisions.path(steps.current)
    what = CREATING if creates else steps.title or f"revision {revisions.describe(steps.current)}"
    error_class = type(root(error)).__name__
    extent = "after it had committed a part of its work" if steps.half_applied else "and was rolled back"
    message = f"{what} failed {extent}: {describe(error)}{where(error, path)}"
    if steps.half_applied:
        again = steps.current in steps.code.idempotent
        message += RUNS_AGAIN if again else repair_advice(steps.left_behind())
    known = remedy(error) or explained(error, steps.current)
    message += advice(error, known) if creates and not steps.half_applied else known
    if contended(error) and not steps.half_applied:
        _record(steps, message, error_class, Outcome.RETRIED)
        return LockContended(message, steps.current, steps.applied)
    _record(steps, message, error_class, Outcome.FAILED)
    return RevisionFailed(message, revision=steps.current, applied=steps.applied)


def _connection_lost(
    error: BaseException, request: MigrationRequest, steps: Steps, revisions: Revisions
) -> MigrationError:
    doing = f"applying {steps.current or 'revisions'}"
    # on a dead connection a revision may raise any error
    unreachable = translate(error, doing) if lost(error) else DatabaseUnreachable(f"no connection while {doing}")
    if steps.under_way is None:
        return unreachable
    return ConnectionLost(
        unreachable.message,
        revision=steps.under_way,
        name=steps.title or revisions.describe(steps.under_way),
        upgrade=request.kind == "upgrade" and steps.title is None,
        last_words=describe(error),
        error_class=type(root(error)).__name__,
    )


def _record(steps: Steps, message: str, error_class: str, outcome: Outcome) -> None:
    try:
        steps.record_failure(in_full(message), error_class, outcome)
    except sa.exc.SQLAlchemyError as error:
        # The caller reports the revision's failure, not this one. SQLite has one lock for everything, so a contended
        # revision cannot be recorded; the next attempt closes this one.
        if not contended(error):
            log.warning("Could not record the failure: %s", in_full(describe(error)), extra={"event": "not_recorded"})


def _is_dead(connection: sa.Connection) -> bool:
    if connection.closed:  # by env.py, not by the server or the network
        return False
    if connection.invalidated:
        return True
    driver: Any = connection.connection.driver_connection
    # asyncpg has a method, psycopg and psycopg2 an attribute, the others neither
    return bool(driver.is_closed() if hasattr(driver, "is_closed") else getattr(driver, "closed", False))


def cause_of(error: BaseException, connection: sa.Connection) -> BaseException:
    """Return the error that ended a run on `connection`.

    Alembic uses the connection at the end of an autocommit block; if it is dead, a second error hides the cause.
    """
    if not _is_dead(connection):
        return error
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, asyncio.CancelledError) or lost(cause):
            return cause
        cause = cause.__context__
    return error


def unresolved(error: CommandError, request: MigrationRequest) -> MigrationError:
    """Return the `MigrationError` for a target that Alembic cannot resolve."""
    if "locate revision" not in str(error):
        # Alembic's other messages are complete, such as "Relative revision -9 didn't produce 9 migrations"
        return UnknownRevision(str(error))
    if f"'{re.split('[+-]', request.target)[0]}'" in str(error):
        return unknown(request.target)
    return SchemaRefused(
        f"the database is at a revision that this build does not contain ({error}). To fix: deploy the release that "
        "contains it, or declare another one with 'alembic stamp --purge REVISION'"
    )
