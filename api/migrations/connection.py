"""The PostgreSQL connection that migrates: its settings, and SQLAlchemy laid over it.

Settings go in with the connection. Start-up values beat `ALTER ROLE … SET` and survive DISCARD ALL, and a SET inside
a transaction that rolls back would be undone. A plain role may set all of them.
"""

from __future__ import annotations

import uuid
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import asyncpg
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import StaticPool

from .failures import sqlstate
from .urls import DatabaseURL

ANSWER_SECONDS = 10.0
"""Limit of every look at the database: asyncpg sets no keepalive, and a server that vanished never answers."""

_REFUSED_AT_CONNECT = {"08P01", "42704", "22023"}


@dataclass(frozen=True)
class Limits:
    """Limits of one statement of a revision, in seconds; 0 is none."""

    lock_timeout_seconds: float = 2.0
    statement_timeout_seconds: float = 0.0

    @property
    def lock_timeout(self) -> str:
        """As PostgreSQL reads it: a bare number would be milliseconds."""
        return f"{round(self.lock_timeout_seconds * 1000)}ms"

    def server_settings(self) -> dict[str, str]:
        """Settings of the session.

        Idle timeouts are off, because a DBA's default would silently kill an idle holder. A client that vanished is
        noticed after 10 + 5 × 3 s instead of two hours, and a statement whose client is gone ends within 1 s.
        """
        return {
            "lock_timeout": self.lock_timeout,
            "statement_timeout": f"{round(self.statement_timeout_seconds * 1000)}ms",
            "idle_in_transaction_session_timeout": "0",
            "idle_session_timeout": "0",
            "client_connection_check_interval": "1s",
            "tcp_keepalives_idle": "10",
            "tcp_keepalives_interval": "5",
            "tcp_keepalives_count": "3",
            "tcp_user_timeout": "15s",
        }


async def connect(url: DatabaseURL, limits: Limits, application_name: str) -> asyncpg.Connection:
    """Open a connection with the settings, or without them where a pooler or platform refuses them at connect.

    PgBouncer lets only a few start-up parameters through; `set_for_work` tries them again, one by one.

    Raises: whatever asyncpg raises.
    """
    name = {"application_name": application_name}
    try:
        return await url.connect(statement_cache_size=0, server_settings={**limits.server_settings(), **name})
    except asyncpg.PostgresError as error:
        if sqlstate(error) not in _REFUSED_AT_CONNECT:
            raise
    return await url.connect(statement_cache_size=0, server_settings=name)


async def set_for_work(connection: asyncpg.Connection, limits: Limits, application_name: str, *, local: bool) -> None:
    """The settings of the one that migrates, in the transaction only if `local`; its name says what it is doing."""
    wanted = {"application_name": application_name, **limits.server_settings()}
    if connection.get_server_version() >= (17, 0):
        wanted["transaction_timeout"] = "0"
    known = await connection.fetch(
        "SELECT name FROM pg_settings WHERE name = ANY($1)", list(wanted), timeout=ANSWER_SECONDS
    )
    for row in known:
        # some platforms know a setting and accept only its default (client_connection_check_interval on macOS)
        with suppress(asyncpg.InvalidParameterValueError):
            await connection.fetchval(
                "SELECT set_config($1, $2, $3)", row["name"], wanted[row["name"]], local, timeout=ANSWER_SECONDS
            )


def engine_over(connection: asyncpg.Connection, limits: Limits, isolation_level: str) -> AsyncEngine:
    """An engine whose only connection is the given one, so that Alembic runs on the session that holds the lock."""

    async def given() -> asyncpg.Connection:
        return connection

    def creator() -> Any:
        # random names: behind a pooler another client's statements are on the same backend
        return engine.sync_engine.dialect.dbapi.connect(  # type: ignore[union-attr]
            async_creator_fn=given,
            prepared_statement_cache_size=0,
            prepared_statement_name_func=lambda: f"__migration_{uuid.uuid4()}__",
        )

    engine = create_async_engine(
        "postgresql+asyncpg://", creator=creator, poolclass=StaticPool, isolation_level=isolation_level
    )
    _lift_lock_timeout_for_concurrent_builds(engine.sync_engine, limits)
    return engine


def _lift_lock_timeout_for_concurrent_builds(engine: sa.Engine, limits: Limits) -> None:
    # A concurrent index build waits for every older transaction. That is no lock queue and stalls nobody, but
    # lock_timeout counts it: the build would fail and leave an invalid index.
    def before(connection: sa.Connection, _cursor: Any, statement: str, *_: Any) -> None:
        if _builds_concurrently(statement):
            _plainly(connection, "SET lock_timeout = 0")

    def after(connection: sa.Connection, _cursor: Any, statement: str, *_: Any) -> None:
        if _builds_concurrently(statement):
            _plainly(connection, f"SET lock_timeout = '{limits.lock_timeout}'")

    sa.event.listen(engine, "before_cursor_execute", before)
    sa.event.listen(engine, "after_cursor_execute", after)


def _builds_concurrently(statement: str) -> bool:
    words = set(statement.upper().split())
    return "CONCURRENTLY" in words and not words.isdisjoint({"INDEX", "REINDEX"})


def _plainly(connection: sa.Connection, sql: str) -> None:
    cursor = connection.connection.cursor()
    cursor.execute(sql)
    cursor.close()
