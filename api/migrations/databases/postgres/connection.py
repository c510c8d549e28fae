"""Opens the PostgreSQL connection that migrates, with its settings, and wraps it for SQLAlchemy.

The settings are start-up parameters: these override `ALTER ROLE … SET`, survive DISCARD ALL and do not roll back. Any
role may set all of them.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import asyncpg
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql.asyncpg import dialect
from sqlalchemy.pool import StaticPool
from sqlalchemy.sql.compiler import IdentifierPreparer

from ...core.protocols import ANSWER_SECONDS
from ...execution.dialects import stores
from ...execution.error_translation import sqlstate, translate
from ...execution.limits import Limits, lift_limits_where_no_session_is_blocked
from ...urls.database_url import DatabaseURL

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

_PROBES = {"TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 15_000}
"""In seconds, the last in milliseconds; some platforms lack some of them."""

_REFUSED_AT_CONNECT = {"08P01", "42704", "22023"}


async def connect(url: DatabaseURL, limits: Limits, application_name: str) -> asyncpg.Connection:
    """Open a connection with the settings, or without them if a pooler or platform refuses them at connect.

    PgBouncer accepts few start-up parameters; `set_for_work` sets them later, one by one. The errors are asyncpg's.
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
    # the client's counterpart of the limits in limits.py: without them, the run waits for a lost answer until its
    # deadline, and then reports as failed what a successor has finished. asyncpg has no option for it, and no public
    # access to the socket.
    sock = connection._transport.get_extra_info("socket")
    if sock is None or sock.family not in {socket.AF_INET, socket.AF_INET6}:
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _PROBES.items():
        if hasattr(socket, option):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


async def set_for_work(connection: asyncpg.Connection, limits: Limits, application_name: str, *, local: bool) -> None:
    """Set the limits and the name of the lock holder, for the transaction only if `local`."""
    wanted = {"application_name": application_name, **limits.server_settings(), **limits.lease()}
    if connection.get_server_version() >= (17, 0):
        wanted["transaction_timeout"] = "0"
    known = await connection.fetch(
        "SELECT name FROM pg_settings WHERE name = ANY($1)", list(wanted), timeout=ANSWER_SECONDS
    )
    for row in known:
        if local:  # a refused setting must not abort the transaction, which carries the lock
            await connection.execute("SAVEPOINT setting", timeout=ANSWER_SECONDS)
        # some platforms accept only a setting's default (client_connection_check_interval on macOS)
        try:
            await connection.fetchval(
                "SELECT set_config($1, $2, $3)", row["name"], wanted[row["name"]], local, timeout=ANSWER_SECONDS
            )
        except asyncpg.InvalidParameterValueError:
            if local:
                await connection.execute("ROLLBACK TO SAVEPOINT setting", timeout=ANSWER_SECONDS)


def engine_over(connection: asyncpg.Connection, isolation_level: str) -> AsyncEngine:
    """Return an engine whose only connection is `connection`, so that Alembic runs on the session with the lock."""
    # imports the ORM, which a start at head does not need
    from sqlalchemy.ext.asyncio import create_async_engine

    async def given() -> asyncpg.Connection:
        return connection

    def creator() -> Any:
        # Without names, because behind a pooler other clients prepare statements on the same backend, and a named one
        # needs a further round trip to be closed.
        return engine.sync_engine.dialect.dbapi.connect(  # type: ignore[union-attr]
            async_creator_fn=given,
            prepared_statement_cache_size=0,
            prepared_statement_name_func=lambda: "",
        )

    engine = create_async_engine(
        "postgresql+asyncpg://", creator=creator, poolclass=StaticPool, isolation_level=isolation_level
    )
    stores(engine.sync_engine.dialect, partial(encodings, connection))
    lift_limits_where_no_session_is_blocked(engine.sync_engine)
    return engine


@contextmanager
def revision_connection(url: DatabaseURL) -> Iterator[sa.Connection]:
    """Open a connection with the URL's `revision_driver`, psycopg or psycopg2, for a thread without an event loop.

    Raises:
        MigrationError: it cannot be opened.
    """
    creator = url.open_for_revisions
    engine = sa.create_engine(f"postgresql+{url.revision_driver}://", creator=creator, poolclass=sa.NullPool)
    try:
        connection = engine.connect()
    except sa.exc.DBAPIError as error:
        raise translate(error, url.connecting) from error
    with connection:
        yield connection


def encodings(connection: asyncpg.Connection) -> tuple[str, str]:
    """Return the session's current encoding and the database's.

    asyncpg requests UTF8, whatever the role or the database sets; a revision may `SET client_encoding`.
    """
    settings = connection.get_settings()
    # a pooler may not report it
    return settings.client_encoding, getattr(settings, "server_encoding", "SQL_ASCII")


def quoted(table: sa.Table) -> str:
    """Return the quoted name of the table, with its schema."""
    # of asyncpg's dialect: the default, psycopg's, doubles each %
    preparer: IdentifierPreparer = dialect().identifier_preparer  # type: ignore[no-untyped-call]
    return preparer.format_table(table)
