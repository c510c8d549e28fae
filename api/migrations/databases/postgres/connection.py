"""The PostgreSQL connection that migrates: its settings, and SQLAlchemy laid over it.

Settings go in with the connection. Start-up values beat `ALTER ROLE … SET` and survive DISCARD ALL, and a SET inside
a transaction that rolls back would be undone. A plain role may set all of them.
"""

from __future__ import annotations

import socket
import uuid
from functools import partial
from typing import Any

import asyncpg
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql.asyncpg import dialect
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import StaticPool
from sqlalchemy.sql.compiler import IdentifierPreparer

from ...core.protocols import ANSWER_SECONDS
from ...execution.dialects import stores
from ...execution.error_translation import sqlstate
from ...execution.limits import Limits, lift_limits_where_no_session_is_blocked
from ...urls.database_url import DatabaseURL

_PROBES = {"TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 15_000}
"""Seconds, but the last in milliseconds; not every platform has them all."""

_REFUSED_AT_CONNECT = {"08P01", "42704", "22023"}


async def connect(url: DatabaseURL, limits: Limits, application_name: str) -> asyncpg.Connection:
    """Open a connection with the settings, or without them where a pooler or platform refuses them at connect.

    PgBouncer lets only a few start-up parameters through; `set_for_work` tries them again, one by one.

    Raises: whatever asyncpg raises.
    """
    name = {"application_name": application_name}
    try:
        connection = await url.connect(statement_cache_size=0, server_settings={**limits.server_settings(), **name})
    except asyncpg.PostgresError as error:
        if sqlstate(error) not in _REFUSED_AT_CONNECT:
            raise
        connection = await url.connect(statement_cache_size=0, server_settings=name)
    _notice_a_vanished_server(connection)
    return connection


def _notice_a_vanished_server(connection: asyncpg.Connection) -> None:
    # The server's own bounds (limits.py), seen from this end. Without them a statement that was cut off is awaited
    # until the run's deadline, and a schema that a successor has long finished is then reported as failed.
    # asyncpg has no option for it, and no public way to the socket.
    sock = connection._transport.get_extra_info("socket")
    if sock is None or sock.family not in {socket.AF_INET, socket.AF_INET6}:
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _PROBES.items():
        if hasattr(socket, option):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


async def set_for_work(connection: asyncpg.Connection, limits: Limits, application_name: str, *, local: bool) -> None:
    """The settings of the one that migrates, in the transaction only if `local`; its name says what it is doing."""
    wanted = {"application_name": application_name, **limits.server_settings(), **limits.lease()}
    if connection.get_server_version() >= (17, 0):
        wanted["transaction_timeout"] = "0"
    known = await connection.fetch(
        "SELECT name FROM pg_settings WHERE name = ANY($1)", list(wanted), timeout=ANSWER_SECONDS
    )
    for row in known:
        if local:  # where one that is refused must not end the transaction, and with it the lock
            await connection.execute("SAVEPOINT setting", timeout=ANSWER_SECONDS)
        # some platforms know a setting and accept only its default (client_connection_check_interval on macOS)
        try:
            await connection.fetchval(
                "SELECT set_config($1, $2, $3)", row["name"], wanted[row["name"]], local, timeout=ANSWER_SECONDS
            )
        except asyncpg.InvalidParameterValueError:
            if local:
                await connection.execute("ROLLBACK TO SAVEPOINT setting", timeout=ANSWER_SECONDS)


def engine_over(connection: asyncpg.Connection, isolation_level: str) -> AsyncEngine:
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
    stores(engine.sync_engine.dialect, partial(encodings, connection))
    lift_limits_where_no_session_is_blocked(engine.sync_engine)
    return engine


def encodings(connection: asyncpg.Connection) -> tuple[str, str]:
    """The encodings that a text passes through: what the session speaks at this moment, and what the database stores.

    asyncpg asks for UTF8, whatever the role or the database sets; a revision may `SET client_encoding`.
    """
    settings = connection.get_settings()
    # a pooler may not tell
    return settings.client_encoding, getattr(settings, "server_encoding", "SQL_ASCII")


def quoted(table: sa.Table) -> str:
    """The table's name, with its schema, as SQL takes it."""
    # asyncpg's dialect: the default one is psycopg's, which doubles every %
    preparer: IdentifierPreparer = dialect().identifier_preparer  # type: ignore[no-untyped-call]
    return preparer.format_table(table)
