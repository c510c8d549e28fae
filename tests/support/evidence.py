"""What the database says happened: history, versions, marks, locks and sessions of a PostgreSQL database."""

from typing import Any

import asyncpg

from tests.support.servers import fetch_sync
from tests.support.waiting import wait_until

HISTORY = "alembic_version_history"


def history(url: str, *, extra_only: bool = False) -> list[dict[str, Any]]:
    """Return the attempts, oldest first; with `extra_only` those at revisions with readable names, which tests made."""
    rows = [dict(row) for row in _rows(url, f"SELECT * FROM {HISTORY} ORDER BY id")]
    return [row for row in rows if len(row["revision"]) != 12] if extra_only else rows


def outcomes(url: str, revision: str) -> list[str]:
    """Return how the attempts at one revision ended, oldest first."""
    return [row["outcome"] for row in history(url) if row["revision"] == revision]


def running(url: str) -> list[str]:
    """Return the revisions that an instance is running, or was when it was killed."""
    return [row["revision"] for row in history(url) if row["outcome"] in {"running", "half_applied"}]


def applied(url: str) -> list[str]:
    """Return the revisions that upgrades applied, in order; a name that occurs twice was applied twice."""
    rows = history(url)
    return [row["revision"] for row in rows if (row["direction"], row["outcome"]) == ("upgrade", "applied")]


def appliers(url: str) -> set[str]:
    """Return the instances that applied a revision."""
    return {row["instance"] for row in history(url) if row["outcome"] == "applied"}


def repeat_first(url: str, revision: str, times: int) -> None:
    """Make the history say that the oldest attempt at `revision` was made `times` times.

    After seven failures an instance pauses for five minutes before its next attempt. After one it pauses for ten
    seconds, in which a busy machine may not even have started it.
    """
    columns = ", ".join(name for name in history(url)[0] if name != "id")
    first = f"SELECT * FROM {HISTORY} WHERE revision = '{revision}' ORDER BY id LIMIT 1"
    copies = f"SELECT -n, {columns} FROM ({first}) AS attempt, generate_series(2, {times}) AS n"
    fetch_sync(url, f"INSERT INTO {HISTORY} (id, {columns}) OVERRIDING SYSTEM VALUE {copies}")


def end_now(url: str) -> None:
    """Set the end of the newest attempt to this moment, from which the pause after it counts."""
    newest = f"(SELECT max(id) FROM {HISTORY})"
    fetch_sync(url, f"UPDATE {HISTORY} SET finished_at = clock_timestamp() WHERE id = {newest}")


def versions(url: str) -> list[str]:
    """Return the rows of Alembic's version table."""
    return sorted(row[0] for row in _rows(url, "SELECT version_num FROM alembic_version"))


def marks(url: str) -> list[str]:
    """Return the rows that the revisions of `project` left behind."""
    return sorted(row[0] for row in _rows(url, "SELECT revision FROM marks"))


def let_go(url: str) -> None:
    """Let the revision `project.held` continue."""
    fetch_sync(url, "CREATE TABLE let_go ()")


def invalid_indexes(url: str) -> list[str]:
    """Return the INVALID indexes that an interrupted CREATE INDEX CONCURRENTLY left behind."""
    rows = fetch_sync(url, "SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisvalid")
    return [row[0] for row in rows]


def advisory_locks(url: str) -> int:
    """Return how many advisory locks sessions hold in this database or wait for."""
    in_here = "database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    rows = fetch_sync(url, f"SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND {in_here}")
    count: int = rows[0][0]
    return count


def until_unlocked(url: str) -> None:
    """Wait until the server, asked directly, has no advisory lock in this database."""
    wait_until(lambda: advisory_locks(url) == 0, "no advisory lock")


def executing(url: str, words: str) -> bool:
    """Return whether a session executes a statement that contains `words` right now."""
    sql = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() "
        "AND state = 'active' AND position($1 IN query) > 0"
    )
    return bool(fetch_sync(url, sql, words)[0][0])


def sessions(url: str) -> list[str]:
    """Return the names of the sessions of instances and commands in this database, without those that only read."""
    sql = (
        "SELECT application_name FROM pg_stat_activity WHERE datname = current_database() "
        "AND application_name SIMILAR TO 'migrations:[^:]*:(waiting|migrating):%' ORDER BY backend_start"
    )
    return [row[0] for row in fetch_sync(url, sql)]


def _rows(url: str, sql: str) -> list[asyncpg.Record]:
    """Return the rows of a table, or none while no revision or run has created it."""
    try:
        return fetch_sync(url, sql)
    except asyncpg.UndefinedTableError:
        return []
