"""The pause before a revision is retried, and how other instances recognise it and the progress of batches.

In the pause, the holder's session executes nothing and waits for no lock, so it would look stuck. So the holder records
the blocking sessions and the time of the next attempt in the failed attempt's row, and executes a query every second.
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
from .lock_status import BLOCKER, grant_for

LATE_SECONDS = 2.0
"""How late the next attempt may begin; after that, the holder is no longer in the pause."""
IN_BATCHES = frozenset({"SELECT", "UPDATE"})
"""The statements of a holder that may execute batches."""
BEAT_SECONDS = 1.0
"""Less than `unlock` observes a session before it takes it for stuck."""


async def rest(
    connection: asyncpg.Connection, history: str, revision: str, retry: Retry, blockers: Sequence[Blocker]
) -> None:
    """Record the pause, and wait until it is over; `history` is the table's quoted name.

    If the session is lost, the error is asyncpg's.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + retry.seconds
    note = json.dumps({"retry": asdict(retry), "blocked_by": [asdict(blocker) for blocker in blockers]})
    newest = f"(SELECT max(id) FROM {history} WHERE revision = $2 AND outcome = '{Outcome.RETRIED}')"
    # only for other instances: the run does not depend on it
    with suppress(asyncpg.PostgresError, TimeoutError):
        await connection.execute(
            f"UPDATE {history} SET note = $1 WHERE id = {newest}", note, revision, timeout=ANSWER_SECONDS
        )
    while (left := end - loop.time()) > 0:
        await asyncio.sleep(min(left, BEAT_SECONDS))
        await connection.execute("SELECT", timeout=ANSWER_SECONDS)


NEWEST = """
    SELECT outcome, instance, note, quote_ident(current_user) AS me,
           extract(epoch FROM clock_timestamp() - finished_at)::float8 AS ago,
           CASE WHEN outcome = 'retried' THEN (
               SELECT json_agg(json_build_object('pid', s.pid, {blocker}))::text FROM pg_stat_activity s
           ) END AS sessions,
           EXISTS (SELECT FROM pg_prepared_xacts WHERE database = current_database()) AS prepared
    FROM {history} ORDER BY id DESC LIMIT 1
""".replace("{blocker}", BLOCKER)
"""The newest attempt, and after a contended one all sessions; `{history}` is the table's quoted name."""


def as_recorded(seen: LockStatus, newest: Mapping[str, Any] | None) -> LockStatus:
    """Return `seen`, with what the holder recorded if it is in such a pause, or if it executes batches."""
    if seen.holder is None or newest is None or not newest["note"]:
        return seen
    if not may_be(seen.holder.instance, newest["instance"]):
        return seen
    if newest["outcome"] == Outcome.HALF_APPLIED and newest["ago"] is None:
        from ...core.batches import from_note  # a start at head does not need it

        return replace(seen, statement=from_note(newest["note"]) or seen.statement)
    return _resting(seen, newest) if newest["outcome"] == Outcome.RETRIED and seen.statement is None else seen


def _resting(seen: LockStatus, newest: Mapping[str, Any]) -> LockStatus:
    ago = newest["ago"] or 0.0
    try:
        note = json.loads(newest["note"])
        retry, blockers = Retry(**note["retry"]), [Blocker(**each) for each in note["blocked_by"]]
    except (ValueError, KeyError, TypeError):  # another release records something else
        return seen
    if ago > retry.seconds + LATE_SECONDS:  # the run ended in its pause
        return seen
    sessions = {each["pid"]: Blocker(**each) for each in json.loads(newest["sessions"])}
    if newest["prepared"]:
        sessions[0] = Blocker(0)
    still = (_still_there(blocker, sessions.get(blocker.pid), ago) for blocker in blockers)
    blocked_by = tuple(blocker for blocker in still if blocker is not None)
    retry = replace(retry, seconds=max(0.0, retry.seconds - ago))
    return replace(seen, retry=retry, blocked_by=blocked_by, grant=seen.grant or grant_for(newest["me"], blocked_by))


def _still_there(blocker: Blocker, session: Blocker | None, ago: float) -> Blocker | None:
    """Return the session as it is now, or None if its transaction has ended since, or its pid is another session's."""
    if session is None or (session.application, session.user) != (blocker.application, blocker.user):
        return None
    # what is hidden from this role may have ended
    ended = session.state is not None and (session.seconds is None or session.seconds < ago)
    return None if ended else replace(session, relation=blocker.relation, mode=blocker.mode)
