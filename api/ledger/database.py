"""The service's own pool of connections: lazy, bounded, and safe behind a transaction pooler."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from api.migrations.urls import DatabaseURL

from .errors import DatabaseUnavailable

# What says that the database cannot serve us now, as opposed to: we asked for nonsense.
# Classes: 08 connection, 28 login, 3D no such database, 53 out of resources, 57 shutdown or cancelled.
# States: read-only standby, serialization failure, deadlock, lock not available.
_AWAY_CLASSES = frozenset({"08", "28", "3D", "53", "57"})
_AWAY_STATES = frozenset({"25006", "40001", "40P01", "55P03"})


class Database:
    """Hands out transactions; connects at the first one, not before."""

    def __init__(
        self,
        url: DatabaseURL,
        *,
        pool_size: int = 5,
        max_overflow: int = 5,
        pool_timeout_seconds: float = 5.0,
        command_timeout_seconds: float = 30.0,
    ) -> None:
        self._url = url
        self._command_timeout_seconds = command_timeout_seconds
        self._engine = create_async_engine(
            "postgresql+asyncpg://",
            # Not `async_creator=`: that one drops every other connect argument, and SQLAlchemy would go on caching
            # statements. A cached one outlives the column types it was prepared for when another instance migrates.
            connect_args={"async_creator_fn": self._connect, "prepared_statement_cache_size": 0},
            pool_pre_ping=True,
            pool_size=pool_size,
            max_overflow=max_overflow,
            pool_timeout=pool_timeout_seconds,
        )
        self._sessions = async_sessionmaker(self._engine, expire_on_commit=False)

    async def _connect(self) -> asyncpg.Connection:
        # Without its cache asyncpg uses the unnamed statement and parses it again with each execution, so a pooler may
        # change the server connection between two transactions. PgBouncer lets application_name pass, nothing else.
        return await self._url.connect(
            statement_cache_size=0,
            command_timeout=self._command_timeout_seconds,
            server_settings={"application_name": "ledger"},
        )

    @asynccontextmanager
    async def sessions(self) -> AsyncIterator[AsyncSession]:
        """A session in one transaction: committed on leaving the block, rolled back if it raises.

        It is a block of the service's and not a FastAPI dependency, because a dependency commits after the handler
        has made its answer: the client would read 201 before, or without, the commit.

        Raises:
            DatabaseUnavailable: no connection in time, or it was lost; a commit may or may not have happened.
            sqlalchemy.exc.IntegrityError: a constraint refused what was written.
        """
        try:
            async with self._sessions.begin() as session:
                yield session
        except (DBAPIError, PoolTimeout, OSError) as error:
            if not _means_away(error):
                raise
            raise DatabaseUnavailable(_reason(error)) from error

    async def dispose(self) -> None:
        """Close every connection; those in use when they come back."""
        await self._engine.dispose()


def _sqlstate(error: BaseException) -> str:
    return str(getattr(getattr(error, "orig", None), "sqlstate", None) or "")


def _means_away(error: DBAPIError | PoolTimeout | OSError) -> bool:
    if not isinstance(error, DBAPIError):
        return True
    state = _sqlstate(error)
    return error.connection_invalidated or state[:2] in _AWAY_CLASSES or state in _AWAY_STATES


def _reason(error: BaseException) -> str:
    return _sqlstate(error) or type(error).__name__
