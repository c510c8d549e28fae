"""How long a statement of a revision may wait, and what happens when it waited too long.

A statement that queues for a table lock stalls everybody who comes after it, readers too, for exactly as long as it
queues: `lock_timeout` *is* the worst stall. So a revision asks briefly, gives up, and asks again a little longer.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

_NOBODY_STALLED = re.compile(
    r"^\s*(?:(?:CREATE\s+(?:UNIQUE\s+)?|DROP\s+)INDEX\s+CONCURRENTLY\b|REINDEX\b.*\bCONCURRENTLY\b"
    r"|ALTER\s+TABLE\b.*\bVALIDATE\s+CONSTRAINT\b)",
    re.IGNORECASE | re.DOTALL,
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


@dataclass(frozen=True)
class Ladder:
    """The lock timeouts of a revision's attempts, in seconds, and the pauses between them.

    The first rungs cost readers little. They never get past autovacuum, which yields only at the deadlock check
    (`deadlock_timeout`, 1 s by default), so the last rung is always half a second longer than that.
    """

    last_seconds: float = 2.0
    first_seconds: tuple[float, ...] = (0.3, 0.6)
    longest_delay_seconds: float = 30.0

    @classmethod
    def for_server(cls, limits: Limits, deadlock_timeout_seconds: float) -> Ladder:
        """The ladder up to the limit that was set, or as far above it as the server's deadlock check demands.

        The pauses stay well below the idle limit, at which the server would end the session that holds the lock.
        """
        delay = min(cls.longest_delay_seconds, limits.idle_seconds / 2 or cls.longest_delay_seconds)
        if not limits.lock_timeout_seconds:
            return cls(0.0, (), delay)
        last = max(limits.lock_timeout_seconds, deadlock_timeout_seconds + 0.5)
        return cls(last, tuple(rung for rung in cls.first_seconds if rung < last), delay)

    def rung(self, attempt: int) -> float:
        """The lock timeout of an attempt (the first is 1) in seconds; 0 is none."""
        return (*self.first_seconds, self.last_seconds)[min(attempt, len(self.first_seconds) + 1) - 1]

    def delay(self, attempt: int) -> float:
        """Seconds to wait after an attempt that did not get its lock: full jitter, at most 30."""
        return random.uniform(0.05, min(self.longest_delay_seconds, 0.25 * 2.0 ** min(attempt, 16)))  # noqa: S311


def lift_limits_where_nobody_is_stalled(engine: sa.Engine) -> None:
    """Take `lock_timeout` and `statement_timeout` off concurrent index builds and VALIDATE CONSTRAINT.

    They wait for other transactions, which is no queue that readers or writers stand in, and may take long. With
    `lock_timeout` a concurrent build fails and leaves an invalid index. The run's own deadline still holds.
    (DETACH PARTITION CONCURRENTLY does queue, and keeps its limits.)
    """
    sa.event.listen(engine, "before_cursor_execute", _lift)
    sa.event.listen(engine, "after_cursor_execute", _restore)


def _lift(connection: sa.Connection, _cursor: Any, statement: str, *_: Any) -> None:
    if _NOBODY_STALLED.search(statement):
        cursor = connection.connection.cursor()
        cursor.execute("SELECT current_setting('lock_timeout'), current_setting('statement_timeout')")
        connection.info["limits"] = cursor.fetchone()
        cursor.execute("SET lock_timeout = 0")
        cursor.execute("SET statement_timeout = 0")
        cursor.close()


def _restore(connection: sa.Connection, _cursor: Any, statement: str, *_: Any) -> None:
    if _NOBODY_STALLED.search(statement):
        lock_timeout, statement_timeout = connection.info.pop("limits")
        cursor = connection.connection.cursor()
        cursor.execute(f"SET lock_timeout = '{lock_timeout}'")
        cursor.execute(f"SET statement_timeout = '{statement_timeout}'")
        cursor.close()
