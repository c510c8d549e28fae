"""Terminates the session that holds the lock: for `./migrate.sh unlock`, and if its process stopped in a statement.

Only the end of a session frees its lock: `pg_advisory_unlock_all()` of another session frees nothing, and
`pg_cancel_backend` ends a statement and keeps the lock.

asyncpg sends PARSE, waits for the answer, and then sends EXECUTE. The session of a process that stopped in between is
`active`, so PostgreSQL's idle limits do not apply. A waiter then applies `MIGRATION_IDLE_SECONDS` and terminates it.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

import asyncpg

from ...core.lock_key import LockKey
from ...core.protocols import ANSWER_SECONDS
from ...core.status import Holder, LockStatus
from ...errors import COMMAND, LockHeld, PrivilegeMissing
from ...lock_manager import HELD_EITHER, may_be
from ...text.encoding import storable
from .connection import encodings
from .lock_status import lock_status

log = logging.getLogger(__name__)

LOOKS, LOOK_SECONDS = 5, 0.5
"""Within these checks, a live process begins another statement, or is executing one."""
FREE_SECONDS = 15.0
RECORD_ROWS = 100
"""The newest rows of the history, among which `record` finds the terminated session's attempt."""

# Checked again, because the process may have resumed; and by key, because another session may have the pid by now.
_TERMINATE_STALLED = f"""
    SELECT pg_terminate_backend(pid)
    FROM (SELECT pid {HELD_EITHER}) h JOIN pg_stat_activity a USING (pid)
    WHERE pid = $5 AND a.state = 'active' AND a.wait_event = 'ClientRead'
      AND a.state_change < clock_timestamp() - make_interval(secs => $6)
"""


async def unlock(connection: asyncpg.Connection, key: LockKey, *, force: bool) -> Holder | None:
    """Terminate the holder's session, wait until the lock is free, and return the holder; None if the lock is free.

    Raises `LockHeld` if it is making progress (without `force`) or did not end in time, or `PrivilegeMissing`.
    """
    seen = await lock_status(key, connection)
    if seen.holder is None:
        return None
    log.info("%s", seen, extra={"event": "unlock"})
    if not force:
        await _refuse_if_progressing(connection, key, seen)
    await _terminate(connection, key, seen.holder)
    return seen.holder


async def terminate_if_stalled(
    connection: asyncpg.Connection, key: LockKey, seen: LockStatus, idle_seconds: float
) -> None:
    """Terminate the holder's session if it stopped in a statement for longer than `idle_seconds`; 0 is no limit."""
    if seen.holder is None or not idle_seconds or (seen.silent_seconds or 0.0) <= idle_seconds:
        return
    try:
        ended = await connection.fetchval(
            _TERMINATE_STALLED, *key.halves, seen.holder.pid, idle_seconds, timeout=ANSWER_SECONDS
        )
    except asyncpg.InsufficientPrivilegeError:
        message = (
            f"%s stopped in a statement, and this role may not terminate it. To fix: '{COMMAND} unlock' as its role"
        )
        log.warning(message, seen.holder.instance, extra={"event": "frozen_holder"})
        return
    if ended:
        message = "Terminated the session of %s, whose process stopped in a statement for %.0f s"
        log.warning(message, seen.holder.instance, seen.silent_seconds, extra={"event": "frozen_holder_ended"})


async def record(connection: asyncpg.Connection, history: str, instance: str, ended: Holder) -> None:
    """Record who terminated the session, for its attempt, if possible; `history` is the table's quoted name."""
    with suppress(asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError, asyncpg.InsufficientPrivilegeError):
        newest = f"SELECT id, instance FROM {history} ORDER BY id DESC LIMIT {RECORD_ROWS}"
        rows = await connection.fetch(newest, timeout=ANSWER_SECONDS)
        attempt = next((row["id"] for row in rows if may_be(ended.instance, row["instance"])), None)
        kept = encodings(connection)
        await connection.execute(
            f"INSERT INTO {history} (revision, parents, direction, outcome, instance, started_at, finished_at, error) "
            f"SELECT revision, parents, 'unlock', 'unlocked', $1, now, now, $2 FROM {history}, clock_timestamp() now "
            "WHERE id = $3",
            storable(instance, kept, 255),
            storable(f"ended session {ended.pid} of {ended.instance}", kept),
            attempt,
            timeout=ANSWER_SECONDS,
        )


async def _refuse_if_progressing(connection: asyncpg.Connection, key: LockKey, first: LockStatus) -> None:
    for _ in range(LOOKS):
        seen = await lock_status(key, connection)
        why = _progress(first, seen)
        if why:
            raise LockHeld(f"{seen}; {why}. To fix: wait, or repeat with --force")
        await asyncio.sleep(LOOK_SECONDS)


def _progress(first: LockStatus, seen: LockStatus) -> str | None:
    if seen.holder is None or first.holder is None or seen.holder.pid != first.holder.pid:
        return "another session has acquired the lock meanwhile"
    if seen.holder.state is None:
        return f"its statement is hidden from this role ({seen.grant})"
    if seen.statement is not None:
        return None if seen.blocked_by else "it is executing a statement"
    return "it has begun another statement" if seen.changed_at != first.changed_at else None


async def _terminate(connection: asyncpg.Connection, key: LockKey, holder: Holder) -> None:
    # by key as well, because another session may have the pid by now; the sessions of both locks are one process's
    held = f"WITH held AS (SELECT pid {HELD_EITHER})"
    sql = f"{held} SELECT bool_and(pg_terminate_backend(pid, $6)) FROM held WHERE $5 IN (SELECT pid FROM held)"
    milliseconds = round(FREE_SECONDS * 1000)
    try:
        ended = await connection.fetchval(
            sql,
            *key.halves,
            holder.pid,
            milliseconds,
            timeout=FREE_SECONDS + ANSWER_SECONDS,
        )
    except asyncpg.InsufficientPrivilegeError as error:
        raise PrivilegeMissing(
            f"this role may not terminate session {holder.pid} of another role. To fix: run this as the migration "
            "role, or let a superuser GRANT pg_signal_backend"
        ) from error
    if ended is False:
        raise LockHeld(f"session {holder.pid} did not end within {FREE_SECONDS:g} s of its termination. To fix: repeat")
