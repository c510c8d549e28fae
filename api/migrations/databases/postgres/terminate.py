"""`./migrate.sh unlock`, the break-glass: ends the session that holds the lock, and writes down who did it.

Only the end of the session frees its lock. `pg_advisory_unlock_all()` of anybody else frees nothing, and
`pg_cancel_backend` ends a statement and keeps the lock.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

import asyncpg

from ...core.lock_key import LockKey
from ...core.protocols import ANSWER_SECONDS
from ...core.status import Holder, LockStatus
from ...errors import LockHeld, PrivilegeMissing
from ...lock_manager import HELD_EITHER, may_be
from ...text.encoding import storable
from .connection import encodings
from .lock_status import lock_status

log = logging.getLogger(__name__)

LOOKS, LOOK_SECONDS = 5, 0.5
"""From the first look to the last a process that lives begins another statement, or is in the middle of one."""
FREE_SECONDS = 15.0
RECORD_ROWS = 100
"""Of the history, in which the attempt of the session that was ended is looked for."""


async def unlock(connection: asyncpg.Connection, key: LockKey, *, force: bool) -> Holder | None:
    """End the holder's session unless it is getting on, and wait until the lock is free.

    Returns whose session it was; None where nobody holds the lock.

    Raises:
        LockHeld: it is getting on (without `force`), or did not end in time.
        PrivilegeMissing: this role may not end it.
    """
    seen = await lock_status(key, connection)
    if seen.holder is None:
        return None
    log.info("%s", seen, extra={"event": "unlock"})
    if not force:
        await _refuse_if_getting_on(connection, key, seen)
    await _end(connection, key, seen.holder)
    return seen.holder


async def record(connection: asyncpg.Connection, history: str, instance: str, ended: Holder) -> None:
    """Write down who did it, beside the attempt that was ended; `history` is the table's quoted name.

    Without such a table, or the right to write it, only the log says it.
    """
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


async def _refuse_if_getting_on(connection: asyncpg.Connection, key: LockKey, first: LockStatus) -> None:
    for _ in range(LOOKS):
        seen = await lock_status(key, connection)
        why = _getting_on(first, seen)
        if why:
            raise LockHeld(f"{seen}; {why}: wait, or repeat with --force")
        await asyncio.sleep(LOOK_SECONDS)


def _getting_on(first: LockStatus, seen: LockStatus) -> str | None:
    if seen.holder is None or first.holder is None or seen.holder.pid != first.holder.pid:
        return "the lock has changed hands meanwhile"
    if seen.grant is not None:
        return f"what it is doing is hidden from this role ({seen.grant})"
    if seen.statement is not None:
        return None if seen.blocked_by else "its statement is at work"
    return "it has begun another statement" if seen.changed_at != first.changed_at else None


async def _end(connection: asyncpg.Connection, key: LockKey, holder: Holder) -> None:
    # by key as well: the pid may be somebody else's by now
    held = HELD_EITHER.format(high="$1", low="$2", high_2="$5", low_2="$6")
    end = f"SELECT pg_terminate_backend(pid, $4) {held} AND pid = $3"
    milliseconds = round(FREE_SECONDS * 1000)
    try:
        ended = await connection.fetchval(
            end,
            key.high,
            key.low,
            holder.pid,
            milliseconds,
            key.second.high,
            key.second.low,
            timeout=FREE_SECONDS + ANSWER_SECONDS,
        )
    except asyncpg.InsufficientPrivilegeError as error:
        raise PrivilegeMissing(
            f"this role may not end session {holder.pid} of another role: run it as the migration role, or a superuser "
            "may GRANT pg_signal_backend"
        ) from error
    if ended is False:
        raise LockHeld(f"session {holder.pid} was told to end, and has not after {FREE_SECONDS:g} s")
