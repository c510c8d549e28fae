"""The common part of the backends that connect with SQLAlchemy alone: MySQL, MariaDB and SQLite."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, cast

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from ..core.protocols import ANSWER_SECONDS, OperatorSession
from ..core.status import Holder
from ..errors import LockHeld
from ..execution.lock_retry import LockRetrySchedule
from ..execution.runner import Runner
from .backend import Backend
from .sql_session import Platform, SqlSession

if TYPE_CHECKING:
    from .backups.backup import Backup  # optional
    from .backups.sqlite import SqliteBackup


class SqlBackend(Backend):
    """A database with a `Platform`."""

    @abstractmethod
    def platform(self, schedule: LockRetrySchedule, *, create_file: bool) -> Platform:
        """Return what connects to the database and locks it."""

    def session(
        self, runner: Runner, schedule: LockRetrySchedule, role: str, backup: Backup | None = None, *, create_file: bool
    ) -> OperatorSession:
        """Return a new session, not yet connected."""
        platform = self.platform(schedule, create_file=create_file)
        return SqlSession(platform, schedule, runner, cast("SqliteBackup | None", backup))

    @abstractmethod
    def how_to_end(self, holder: Holder) -> str:
        """Say how an operator terminates `holder`, which frees the lock."""

    async def end_holder(
        self, new_session: Callable[[], OperatorSession], history: sa.Table, *, force: bool
    ) -> Holder | None:
        """Raise `LockHeld`: the database does not show progress, so an operator must decide."""
        session = new_session()
        try:
            await session.open()
            holder = (await session.lock_status()).holder
        finally:
            await session.close()
        if holder is not None:
            raise LockHeld(f"{holder.instance} holds the lock. To fix: if it is stuck, {self.how_to_end(holder)}")
        return None

    @asynccontextmanager
    async def sql_connection(self, *, create_file: bool = False) -> AsyncIterator[AsyncConnection]:
        """Open an SQLAlchemy connection to read from."""
        platform = self.platform(LockRetrySchedule(lambda _revision: self.limits), create_file=create_file)
        # a server may accept the connection and never answer
        async with asyncio.timeout(ANSWER_SECONDS):
            connection = await platform.connect()
        try:
            yield connection
        finally:
            await connection.close()
