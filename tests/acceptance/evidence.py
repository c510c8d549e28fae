"""What the database says happened; the tests ask it rather than any process."""

from typing import Any

from tests.servers import fetch_sync

HISTORY = "alembic_version_history"


def history(url: str, *, extra_only: bool = False) -> list[dict[str, Any]]:
    """The attempts, oldest first; with `extra_only` those at revisions with readable names, which tests made."""
    if fetch_sync(url, f"SELECT to_regclass('{HISTORY}')")[0][0] is None:
        return []
    rows = [dict(row) for row in fetch_sync(url, f"SELECT * FROM {HISTORY} ORDER BY id")]
    return [row for row in rows if len(row["revision"]) != 12] if extra_only else rows


def outcomes(url: str, revision: str) -> list[str]:
    """How the attempts at one revision ended, oldest first."""
    return [row["outcome"] for row in history(url) if row["revision"] == revision]


def running(url: str) -> list[str]:
    """The revisions that somebody is at, or was when it was killed."""
    return [row["revision"] for row in history(url) if row["outcome"] in {"running", "half_applied"}]


def applied(url: str) -> list[str]:
    """The revisions that an upgrade applied, in order; one that is named twice was applied twice."""
    rows = history(url)
    return [row["revision"] for row in rows if (row["direction"], row["outcome"]) == ("upgrade", "applied")]


def appliers(url: str) -> set[str]:
    """The instances that applied something."""
    return {row["instance"] for row in history(url) if row["outcome"] == "applied"}


def versions(url: str) -> list[str]:
    """What Alembic's own table says."""
    if fetch_sync(url, "SELECT to_regclass('alembic_version')")[0][0] is None:
        return []
    return sorted(row[0] for row in fetch_sync(url, "SELECT version_num FROM alembic_version"))


def marks(url: str) -> list[str]:
    """The rows that the revisions of `project` left behind."""
    if fetch_sync(url, "SELECT to_regclass('marks')")[0][0] is None:
        return []
    return sorted(row[0] for row in fetch_sync(url, "SELECT revision FROM marks"))


def let_go(url: str) -> None:
    """Let the revision `project.held` go on."""
    fetch_sync(url, "CREATE TABLE let_go ()")


def invalid_indexes(url: str) -> list[str]:
    """Indexes that a broken CREATE INDEX CONCURRENTLY left behind."""
    rows = fetch_sync(url, "SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisvalid")
    return [row[0] for row in rows]


def advisory_locks(url: str) -> int:
    """How many advisory locks are held in this database, or waited for."""
    in_here = "database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    rows = fetch_sync(url, f"SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND {in_here}")
    count: int = rows[0][0]
    return count


def executing(url: str, words: str) -> bool:
    """Whether a session is inside a statement that contains `words` right now."""
    sql = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() "
        "AND state = 'active' AND position($1 IN query) > 0"
    )
    return bool(fetch_sync(url, sql, words)[0][0])


def sessions(url: str) -> list[str]:
    """The names of the sessions of instances and commands in this database; not of those that only look."""
    sql = (
        "SELECT application_name FROM pg_stat_activity WHERE datname = current_database() "
        "AND application_name SIMILAR TO 'migrations:[^:]*:(waiting|migrating):%' ORDER BY backend_start"
    )
    return [row[0] for row in fetch_sync(url, sql)]
