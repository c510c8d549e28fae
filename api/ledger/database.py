"""The service's own pool of connections: lazy, bounded, and safe behind a transaction pooler."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from api.migrations.urls.database_url import DatabaseURL

from .engines import WRITING, engine_of
from .errors import DatabaseUnavailable, Deadlocked
from .outages import means_away, means_deadlock, reason


class Database:
    """Provides transactions; connects at the first one."""

    def __init__(
        self,
        url: DatabaseURL,
        *,
        pool_size: int = 5,
        max_overflow: int = 5,
        pool_timeout_seconds: float = 5.0,
        command_timeout_seconds: float = 30.0,
    ) -> None:
        self._engine = engine_of(
            url,
            command_timeout_seconds,
            pool_size=pool_size,
            max_overflow=max_overflow,
            pool_timeout=pool_timeout_seconds,
        )
        self._reading = async_sessionmaker(self._engine, expire_on_commit=False)
        self._writing = async_sessionmaker(self._engine.execution_options(**{WRITING: True}), expire_on_commit=False)

    @asynccontextmanager
    async def sessions(self, *, writing: bool = False) -> AsyncIterator[AsyncSession]:
        """Yield a session in one transaction, which the end of the block commits and an exception rolls back.

        Args:
            writing: whether the transaction writes, which SQLite must know beforehand.

        It is not a FastAPI dependency, because a dependency commits after the handler has created its answer: the
        client would read 201 before, or without, the commit.

        Raises:
            Deadlocked: nothing was written, and an immediate retry may succeed.
            DatabaseUnavailable: no connection in time, or it was lost; a commit may or may not have happened.
            sqlalchemy.exc.IntegrityError: a constraint refused what was written.
        """
        try:
            async with (self._writing if writing else self._reading).begin() as session:
                yield session
        except (DBAPIError, PoolTimeout, OSError) as error:
            if not means_away(error):
                raise
            kind = Deadlocked if means_deadlock(error) else DatabaseUnavailable
            raise kind(reason(error)) from error

    async def dispose(self) -> None:
        """Close every connection; those in use when they are returned."""
        await self._engine.dispose()
