"""The limits of the migrating session, and the statements that are exempt from them."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from .statements import uncommented

log = logging.getLogger(__name__)

_NAME = r'(?:"[^"]+"|[\w$]+)'
_BLOCKS_NO_SESSION = re.compile(
    r"(?:CREATE\s+(?:UNIQUE\s+)?|DROP\s+)INDEX\s+CONCURRENTLY\b"
    r"|REINDEX\s*(?:\([^)]*\)\s*)?(?:INDEX|TABLE|SCHEMA|DATABASE|SYSTEM)\s+CONCURRENTLY\b"
    # as the only action, because another one could need a stronger lock
    rf"|ALTER\s+TABLE\s+(?:IF\s+EXISTS\s+)?(?:ONLY\s+)?{_NAME}(?:\.{_NAME})?\s+VALIDATE\s+CONSTRAINT\s+{_NAME}\s*;?\s*$",
    re.IGNORECASE,
)


def milliseconds(seconds: float) -> str:
    """Format a duration for PostgreSQL's settings, with its unit."""
    return f"{round(seconds * 1000)}ms"


@dataclass(frozen=True)
class Limits:
    """The limits of the migrating session in seconds; 0 means no limit."""

    lock_timeout_seconds: float = 2.0
    statement_timeout_seconds: float = 0.0
    idle_seconds: float = 60.0
    """The longest time between two statements; then the server terminates the session, which releases the lock."""

    def lease(self) -> dict[str, str]:
        """The lock holder's settings, with which the server terminates a stopped holder (SIGSTOP, a frozen host).

        When the holder resumes, its next statement fails instead of running beside the next holder's.
        """
        idle = milliseconds(self.idle_seconds)
        return {"idle_in_transaction_session_timeout": idle, "idle_session_timeout": idle}

    def server_settings(self) -> dict[str, str]:
        """The settings of every session.

        Idle timeouts are off, because a server's default would terminate an idle waiter (the lock holder has `lease`).
        The server detects a vanished client after 15 s (probes every 5 s, `tcp_user_timeout`) instead of two hours, and
        cancels the statement of a disconnected client within 1 s. The probes also keep the flow of a long statement
        alive in a NAT or load balancer that drops idle flows.
        """
        return {
            "lock_timeout": milliseconds(self.lock_timeout_seconds),
            "statement_timeout": milliseconds(self.statement_timeout_seconds),
            "idle_in_transaction_session_timeout": "0",
            "idle_session_timeout": "0",
            "client_connection_check_interval": "1s",
            "tcp_keepalives_idle": "5",
            "tcp_keepalives_interval": "5",
            "tcp_keepalives_count": "3",
            "tcp_user_timeout": "15s",
        }

    def warn_of_no_statement_timeout(self, database: str, revision: str) -> None:
        """Log that `database` does not support the statement timeout, if one is set for the revision."""
        if self.statement_timeout_seconds:
            log.warning(
                "Revision %s: %s has no statement timeout, so MIGRATION_STATEMENT_TIMEOUT_SECONDS has no effect; only "
                "MIGRATION_RUN_SECONDS limits the run",
                revision,
                database,
                extra={"event": "no_statement_timeout", "revision": revision},
            )


def blocks_no_session(statement: str) -> bool:
    """Whether no reader or writer queues behind the statement while it waits."""
    return _BLOCKS_NO_SESSION.match(uncommented(statement)) is not None


def lift_limits_where_no_session_is_blocked(target: sa.Engine | sa.Connection) -> None:
    """Disable `lock_timeout` and `statement_timeout` for concurrent index builds and VALIDATE CONSTRAINT.

    They wait for other transactions without blocking readers or writers, and may take long; a concurrent build that
    times out leaves an INVALID index. MIGRATION_RUN_SECONDS still applies. DETACH PARTITION CONCURRENTLY blocks other
    sessions and keeps its limits.
    """
    sa.event.listen(target, "before_cursor_execute", _lift)
    sa.event.listen(target, "after_cursor_execute", _restore)


def _lift(connection: sa.Connection, _cursor: Any, statement: str, *_: Any) -> None:
    if blocks_no_session(statement):
        cursor = connection.connection.cursor()
        cursor.execute("SELECT current_setting('lock_timeout'), current_setting('statement_timeout')")
        connection.info["limits"] = cursor.fetchone()
        cursor.execute("SET lock_timeout = 0")
        cursor.execute("SET statement_timeout = 0")
        cursor.close()


def _restore(connection: sa.Connection, _cursor: Any, statement: str, *_: Any) -> None:
    if blocks_no_session(statement):
        lock_timeout, statement_timeout = connection.info.pop("limits")
        cursor = connection.connection.cursor()
        cursor.execute(f"SET lock_timeout = '{lock_timeout}'")
        cursor.execute(f"SET statement_timeout = '{statement_timeout}'")
        cursor.close()
