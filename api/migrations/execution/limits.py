"""How long the session that migrates may wait, run and idle, and which statements may take as long as they like."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from .statements import code

log = logging.getLogger(__name__)

_NAME = r'(?:"[^"]+"|[\w$]+)'
_NOBODY_STALLED = re.compile(
    r"(?:CREATE\s+(?:UNIQUE\s+)?|DROP\s+)INDEX\s+CONCURRENTLY\b"
    r"|REINDEX\s*(?:\([^)]*\)\s*)?(?:INDEX|TABLE|SCHEMA|DATABASE|SYSTEM)\s+CONCURRENTLY\b"
    # alone: beside it another action would ask for a stronger lock
    rf"|ALTER\s+TABLE\s+(?:IF\s+EXISTS\s+)?(?:ONLY\s+)?{_NAME}(?:\.{_NAME})?\s+VALIDATE\s+CONSTRAINT\s+{_NAME}\s*;?\s*$",
    re.IGNORECASE,
)


def milliseconds(seconds: float) -> str:
    """A duration as PostgreSQL's settings take it: with its unit, because a bare number would be milliseconds."""
    return f"{round(seconds * 1000)}ms"


@dataclass(frozen=True)
class Limits:
    """Limits of the session that migrates, in seconds; 0 is none."""

    lock_timeout_seconds: float = 2.0
    statement_timeout_seconds: float = 0.0
    idle_seconds: float = 60.0
    """How long it may do nothing between two statements before the server ends it, and with it the lock."""

    def lease(self) -> dict[str, str]:
        """What makes the server end a holder that was stopped (SIGSTOP, a frozen host).

        When it wakes up, its next statement fails, instead of running beside its successor's.
        """
        idle = milliseconds(self.idle_seconds)
        return {"idle_in_transaction_session_timeout": idle, "idle_session_timeout": idle}

    def server_settings(self) -> dict[str, str]:
        """Settings of the session.

        Idle timeouts are off, because a DBA's default would silently kill an idle waiter (the holder has its `lease`).
        A client that vanished is noticed after 15 s (probes every 5 s, `tcp_user_timeout`) instead of two hours, and a
        statement whose client is gone ends within 1 s. The probes also keep a NAT or load balancer, which forgets idle
        flows, from forgetting a long statement's.
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
        """Say that a `database` has no limit of one statement, where the revision was to have one."""
        if self.statement_timeout_seconds:
            log.warning(
                "Revision %s: %s has no statement timeout, so MIGRATION_STATEMENT_TIMEOUT_SECONDS has no effect; only "
                "MIGRATION_RUN_SECONDS limits the run",
                revision,
                database,
                extra={"event": "no_statement_timeout", "revision": revision},
            )


def stalls_nobody(statement: str) -> bool:
    """Whether nobody queues behind it, however long it waits."""
    return _NOBODY_STALLED.match(code(statement)) is not None


def lift_limits_where_nobody_is_stalled(engine: sa.Engine) -> None:
    """Take `lock_timeout` and `statement_timeout` off concurrent index builds and VALIDATE CONSTRAINT.

    They wait for other transactions, which is no queue that readers or writers stand in, and may take long. With
    `lock_timeout` a concurrent build fails and leaves an invalid index. The run's own deadline still holds.
    (DETACH PARTITION CONCURRENTLY does queue, and keeps its limits.)
    """
    sa.event.listen(engine, "before_cursor_execute", _lift)
    sa.event.listen(engine, "after_cursor_execute", _restore)


def _lift(connection: sa.Connection, _cursor: Any, statement: str, *_: Any) -> None:
    if stalls_nobody(statement):
        cursor = connection.connection.cursor()
        cursor.execute("SELECT current_setting('lock_timeout'), current_setting('statement_timeout')")
        connection.info["limits"] = cursor.fetchone()
        cursor.execute("SET lock_timeout = 0")
        cursor.execute("SET statement_timeout = 0")
        cursor.close()


def _restore(connection: sa.Connection, _cursor: Any, statement: str, *_: Any) -> None:
    if stalls_nobody(statement):
        lock_timeout, statement_timeout = connection.info.pop("limits")
        cursor = connection.connection.cursor()
        cursor.execute(f"SET lock_timeout = '{lock_timeout}'")
        cursor.execute(f"SET statement_timeout = '{statement_timeout}'")
        cursor.close()
