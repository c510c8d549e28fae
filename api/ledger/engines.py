"""An engine for each database, configured so that the ledger behaves the same on all of them."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
from sqlalchemy import Connection, event
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from api.migrations.build import session_name
from api.migrations.urls.database_url import DatabaseURL

NAME = "ledger"

# The server closes idle connections only after twice the time for which the pool keeps them.
_RECYCLE_SECONDS = 270
_IDLE_SECONDS = 2 * _RECYCLE_SECONDS

# TRADITIONAL refuses values that are too long instead of truncating them. It also switches off NO_BACKSLASH_ESCAPES and
# ANSI_QUOTES, which the driver does not support, because it puts values into statements itself.
_ON_MYSQL = (
    "SET SESSION sql_mode = 'TRADITIONAL', time_zone = '+00:00', "
    "wait_timeout = {idle_seconds}, innodb_lock_wait_timeout = {lock_seconds}"
)

WRITING = "ledger_writing"
"""The execution option of an engine whose transactions write."""


def engine_of(url: DatabaseURL, command_timeout_seconds: float, **pool: Any) -> AsyncEngine:
    """A lazy engine over `url`; `pool` goes to `create_async_engine`.

    Raises:
        api.migrations.errors.ConfigurationError: the database's driver is not installed.
    """
    make = {"postgresql": _postgresql, "mysql": _mysql, "sqlite": _sqlite}[url.dialect]
    return make(url, command_timeout_seconds, **pool)


def _postgresql(url: DatabaseURL, command_timeout_seconds: float, **pool: Any) -> AsyncEngine:
    # computed once, in a thread: it reads the revision files, and neither the start nor other requests wait for that
    name: list[str] = []
    naming = asyncio.Lock()

    async def connect() -> asyncpg.Connection:
        async with naming:
            if not name:
                name.append(await asyncio.to_thread(session_name, NAME))
        # Without its cache asyncpg uses the unnamed statement and parses it again with each execution, so a pooler may
        # change the server connection between two transactions. PgBouncer lets application_name pass, nothing else.
        return await url.connect(
            statement_cache_size=0,
            command_timeout=command_timeout_seconds,
            server_settings={"application_name": name[0]},
        )

    # Not `async_creator=`: that one drops every other connect argument, and SQLAlchemy would go on caching
    # statements. A cached one outlives the column types it was prepared for when another instance migrates.
    arguments = {"async_creator_fn": connect, "prepared_statement_cache_size": 0}
    engine = create_async_engine(url.sqlalchemy(), connect_args=arguments, **pool)
    event.listen(engine.sync_engine, "checkout", _refuse_closed)
    return engine


def _refuse_closed(connection: Any, *_: Any) -> None:
    # In place of `pool_pre_ping`, which took a fifth of the CPU time of a request: asyncpg learns at once that the
    # server has closed a connection. The pool then connects anew.
    if connection.driver_connection.is_closed():
        raise DisconnectionError


def _mysql(url: DatabaseURL, command_timeout_seconds: float, **pool: Any) -> AsyncEngine:
    limits = {"idle_seconds": _IDLE_SECONDS, "lock_seconds": max(1, int(command_timeout_seconds))}
    arguments = {
        "program_name": NAME,
        "read_timeout": command_timeout_seconds,
        "init_command": _ON_MYSQL.format(**limits),
    }
    return create_async_engine(
        url.sqlalchemy(),
        connect_args={**url.connect_args(), **arguments},
        # As on PostgreSQL. Under REPEATABLE READ, MySQL's default, a transaction that lost the race for a key could not
        # see the winner's row. The ledger reads it in a new transaction, but later changes should not depend on that.
        isolation_level="READ COMMITTED",
        pool_pre_ping=True,
        pool_recycle=_RECYCLE_SECONDS,
        **pool,
    )


def _sqlite(url: DatabaseURL, command_timeout_seconds: float, **pool: Any) -> AsyncEngine:
    # isolation_level=None, because Python's module otherwise begins transactions late, and only before some statements
    arguments = {**url.connect_args(), "isolation_level": None, "timeout": command_timeout_seconds}
    engine = create_async_engine(url.sqlalchemy(), connect_args=arguments, **pool)
    event.listen(engine.sync_engine, "connect", _check_foreign_keys)
    event.listen(engine.sync_engine, "begin", _begin)
    return engine


def _check_foreign_keys(connection: Any, _record: object) -> None:
    connection.cursor().execute("PRAGMA foreign_keys = ON")


def _begin(connection: Connection) -> None:
    # Two transactions that read and then write would deadlock, so SQLite refuses the second at once. A transaction that
    # writes therefore acquires the write lock before it reads.
    writing = connection.get_execution_options().get(WRITING)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")
