"""The service's own pool of connections: lazy, bounded, and safe behind a transaction pooler."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import wraps
from typing import ParamSpec, TypeVar

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from api.migrations.urls.database_url import DatabaseURL

from .engines import WRITING, engine_of
from .errors import DatabaseUnavailable, Deadlocked
from .outages import means_away, means_deadlock, reason

P = ParamSpec("P")
T = TypeVar("T")

ATTEMPTS = 3
"""Each costs a second: PostgreSQL looks for a deadlock after `deadlock_timeout`."""


def again_after_deadlock(operation: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
    """Return `operation`, which is executed up to `ATTEMPTS` times if deadlocks roll back its transaction.

    A revision that alters several tables deadlocks with transactions that use them in another order, and the database
    may roll back any of them. The next attempt waits for the revision. If several MySQL transactions wait for a key
    whose transaction rolls back, MySQL gives it to one and rolls back the others, which then wait for that one.
    """

    @wraps(operation)
    async def repeated(*args: P.args, **kwargs: P.kwargs) -> T:
        for _ in range(ATTEMPTS - 1):
            with suppress(Deadlocked):
                return await operation(*args, **kwargs)
        return await operation(*args, **kwargs)

    return repeated


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
