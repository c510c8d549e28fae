"""Reads the lock holder, its statement, the sessions that block it, and the waiting instances, in one query.

Any role sees the locks, process ids and names (`application_name`, by which the instances are found) of all sessions.
The statements of another role's sessions are hidden unless the role has `pg_read_all_stats`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import asyncpg

from ...core.lock_key import LockKey
from ...core.protocols import ANSWER_SECONDS
from ...core.status import Blocker, Holder, LockStatus, Member, Statement
from ...execution.statements import kind
from ...lock_manager import HELD, instance_of
from ...text.encoding import restored

FLEET = ("waiting", "migrating")
"""The roles of sessions that are instances or commands; the others only read."""

BLOCKER = """
    'application', s.application_name, 'user', s.usename, 'state', s.state,
    'seconds', extract(epoch FROM clock_timestamp() - s.xact_start),
    -- the rules of pg_terminate_backend; a session without a role is the server's own
    'terminate_needs', CASE
        WHEN current_setting('is_superuser') = 'on' THEN NULL
        WHEN coalesce((SELECT rolsuper FROM pg_roles WHERE oid = s.usesysid), true) THEN 'superuser'
        WHEN NOT pg_has_role(s.usesysid, 'USAGE') AND NOT pg_has_role('pg_signal_backend', 'USAGE')
        THEN 'GRANT pg_signal_backend TO ' || quote_ident(current_user) END
"""
"""The fields of a `Blocker` but its pid and lock, as keys and values of JSON; `s` is its row of `pg_stat_activity`."""

# pg_blocking_pids briefly stops the server's lock manager, so it is called only if the holder waits for a lock
_STATUS = r"""
    SELECT h.pid, a.application_name, a.state, a.query, quote_ident(current_user) AS me,
           extract(epoch FROM a.backend_start)::float8 AS since,
           extract(epoch FROM a.state_change)::float8 AS changed_at,
           extract(epoch FROM clock_timestamp() - a.query_start)::float8 AS seconds,
           -- its client sends a statement, to which no idle limit applies (COPY sends its rows so)
           CASE WHEN a.state = 'active' AND a.wait_event = 'ClientRead' AND a.query !~* '^\s*copy\M'
                THEN extract(epoch FROM clock_timestamp() - a.state_change)::float8 END AS silent,
           p.phase, round(100 * p.done::numeric, 1)::float8 AS percent,
           -- as text: once SQLAlchemy has used a connection, asyncpg decodes JSON by itself
           (SELECT json_agg(json_build_object('pid', b.pid, {blocker},
                'relation', w.relation::regclass::text, 'mode', w.mode))::text
            FROM (SELECT relation, mode FROM pg_locks WHERE pid = h.pid AND NOT granted LIMIT 1) w,
                 LATERAL unnest(pg_blocking_pids(h.pid)) AS b(pid)
                 -- a prepared transaction, which has no session, has the pid 0
                 LEFT JOIN pg_stat_activity s ON s.pid = b.pid) AS blocked_by,
           (SELECT json_agg(json_build_object(
                'name', f.application_name, 'pid', f.pid, 'since', extract(epoch FROM f.backend_start))
                ORDER BY f.backend_start)::text
            FROM pg_stat_activity f
            WHERE starts_with(f.application_name, $5) AND f.datname = current_database()) AS fleet
    FROM (SELECT) one
    -- the session that runs revisions, where it is another one than the first lock's
    LEFT JOIN (SELECT pid FROM (SELECT pid, 2 AS rank {second} UNION ALL SELECT pid, 1 {held}) each
               ORDER BY rank DESC LIMIT 1) h ON true
    LEFT JOIN pg_stat_activity a ON a.pid = h.pid
    LEFT JOIN LATERAL (
        SELECT phase, CASE WHEN phase LIKE 'waiting %' THEN lockers_done::float8 / nullif(lockers_total, 0)
                           WHEN tuples_total > 0 THEN tuples_done::float8 / tuples_total
                           ELSE blocks_done::float8 / nullif(blocks_total, 0) END AS done
        FROM pg_stat_progress_create_index WHERE pid = h.pid) p ON true
""".format(blocker=BLOCKER, held=HELD.format(high="$1", low="$2"), second=HELD.format(high="$3", low="$4"))


async def lock_status(key: LockKey, connection: asyncpg.Connection) -> LockStatus:
    """Return the status; the errors are asyncpg's."""
    row = await connection.fetchrow(_STATUS, *key.halves, key.label, timeout=ANSWER_SECONDS)
    fleet = tuple(member for member in (_member(key, each) for each in _list(row["fleet"])) if member.role in FLEET)
    if row["pid"] is None:
        return LockStatus(fleet=fleet)
    blocked_by = tuple(Blocker(**each) for each in _list(row["blocked_by"]))
    seen = Blocker(row["pid"], state=row["state"]), *blocked_by
    return LockStatus(
        holder=Holder(instance_of(row["application_name"]), row["pid"], row["since"], row["state"]),
        statement=_statement(row),
        blocked_by=blocked_by,
        fleet=fleet,
        changed_at=row["changed_at"],
        silent_seconds=row["silent"],
        grant=grant_for(row["me"], seen),
    )


def grant_for(role: str, sessions: Iterable[Blocker]) -> str | None:
    """Return the GRANT that shows `role`, a quoted name, what the sessions do; None if it sees that."""
    hidden = any(session.pid and session.state is None for session in sessions)
    return f"GRANT pg_read_all_stats TO {role}" if hidden else None


def _statement(row: asyncpg.Record) -> Statement | None:
    if row["state"] != "active" or row["silent"] is not None:
        return None
    return Statement(kind(row["query"]), row["phase"], row["percent"], row["seconds"])


def _member(key: LockKey, row: dict[str, Any]) -> Member:
    role, _, instance = row["name"].removeprefix(key.label).partition(":")
    return Member(restored(instance), role, row["pid"], row["since"])


def _list(text: str | None) -> list[dict[str, Any]]:
    return json.loads(text) if text else []
