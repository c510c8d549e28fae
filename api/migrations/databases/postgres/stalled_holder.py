"""A holder that was stopped in the middle of telling the server what to execute.

asyncpg says PARSE, waits for the answer, and then says EXECUTE. A process that is stopped in between leaves its session
`active`, where PostgreSQL's idle limits do not count, and the lock with it. A session that is waited for is ended by
whoever notices: `MIGRATION_IDLE_SECONDS` holds there too.
"""

from __future__ import annotations

import logging

import asyncpg

from ...core.lock_key import LockKey
from ...core.protocols import ANSWER_SECONDS
from ...core.status import LockStatus
from ...lock_manager import HELD_EITHER

log = logging.getLogger(__name__)

# asked again, for it may have gone on; by key as well, for the pid may be somebody else's by now
_END = f"""
    SELECT pg_terminate_backend(pid)
    FROM (SELECT pid {HELD_EITHER.format(high="$1", low="$2", high_2="$5", low_2="$6")}) h
         JOIN pg_stat_activity a USING (pid)
    WHERE pid = $3 AND a.state = 'active' AND a.wait_event = 'ClientRead'
      AND a.state_change < clock_timestamp() - make_interval(secs => $4)
"""


async def end_if_frozen(connection: asyncpg.Connection, key: LockKey, seen: LockStatus, idle_seconds: float) -> None:
    """End the holder's session if it has been silent for longer than `idle_seconds`; 0 is no limit.

    What it was doing is rolled back; where this role may not end it, the log says who may.
    """
    if seen.holder is None or not idle_seconds or (seen.silent_seconds or 0.0) <= idle_seconds:
        return
    try:
        ended = await connection.fetchval(
            _END,
            key.high,
            key.low,
            seen.holder.pid,
            idle_seconds,
            key.second.high,
            key.second.low,
            timeout=ANSWER_SECONDS,
        )
    except asyncpg.InsufficientPrivilegeError:
        message = "%s is frozen in mid-statement, and this role may not end it; './migrate.sh unlock' as its own"
        log.warning(message, seen.holder.instance, extra={"event": "frozen_holder"})
        return
    if ended:
        message = "Ended the session of %s, whose process was silent for %.0f s in mid-statement"
        log.warning(message, seen.holder.instance, seen.silent_seconds, extra={"event": "frozen_holder_ended"})
