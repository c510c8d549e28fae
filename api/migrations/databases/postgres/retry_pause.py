"""The pause between two tries at a revision: what the holder leaves for others to read, and that it is alive.

In it the session executes nothing, has nothing in its way that could be seen, and would look like one that is frozen.
So the row of the try that failed says who was in the way and when the next one comes, and the session does something
every second.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any

import asyncpg

from ...core.protocols import ANSWER_SECONDS
from ...core.status import Blocker, LockStatus, Retry
from ...execution.history_table import Outcome
from ...lock_manager import may_be

LATE_SECONDS = 2.0
"""How much later than it was to begin the next try may begin; after that nobody is in the pause any more."""
BEAT_SECONDS = 1.0
"""Less than `unlock` looks on before it takes a session for a frozen one."""


async def rest(
    connection: asyncpg.Connection, history: str, revision: str, retry: Retry, blockers: Sequence[Blocker]
) -> None:
    """Return when the pause is over; `history` is the table's quoted name.

    Raises: whatever asyncpg raises where the session was lost meanwhile.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + retry.seconds
    note = json.dumps({"retry": asdict(retry), "blocked_by": [asdict(blocker) for blocker in blockers]})
    newest = f"(SELECT max(id) FROM {history} WHERE revision = $2 AND outcome = '{Outcome.RETRIED}')"
    # for people: the run does not depend on it
    with suppress(asyncpg.PostgresError, TimeoutError):
        await connection.execute(
            f"UPDATE {history} SET note = $1 WHERE id = {newest}", note, revision, timeout=ANSWER_SECONDS
        )
    while (left := end - loop.time()) > 0:
        await asyncio.sleep(min(left, BEAT_SECONDS))
        await connection.execute("SELECT", timeout=ANSWER_SECONDS)


NEWEST = """
    SELECT outcome, instance, note, extract(epoch FROM clock_timestamp() - finished_at)::float8 AS ago,
           ARRAY(SELECT pid FROM pg_stat_activity) AS alive
    FROM {history} ORDER BY id DESC LIMIT 1
"""
"""The newest attempt, and the sessions that are there; the table's quoted name is to be put in."""


def resting(seen: LockStatus, newest: Mapping[str, Any] | None) -> LockStatus:
    """`seen`, with what the holder has left to read if it is in such a pause."""
    if seen.holder is None or newest is None or newest["outcome"] != Outcome.RETRIED or not newest["note"]:
        return seen
    ago = newest["ago"] or 0.0
    if not may_be(seen.holder.instance, newest["instance"]):
        return seen
    try:
        left = json.loads(newest["note"])
        retry, blockers = Retry(**left["retry"]), [Blocker(**each) for each in left["blocked_by"]]
    except (ValueError, KeyError, TypeError):  # of a release that leaves something else
        return seen
    if ago > retry.seconds + LATE_SECONDS:  # of a run that ended in its pause
        return seen
    return replace(
        seen,
        retry=replace(retry, seconds=max(0.0, retry.seconds - ago)),
        blocked_by=tuple(
            replace(blocker, seconds=None if blocker.seconds is None else blocker.seconds + ago)
            for blocker in blockers
            if blocker.pid in newest["alive"]
        ),
    )
