"""What each kind of database does in its own way: the one shape of `databases/<name>/backend.py`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, ClassVar

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from ..core.lock_key import LockKey
from ..core.protocols import OperatorSession
from ..core.status import Holder
from ..execution.limits import Limits
from ..execution.lock_retry import LockRetrySchedule
from ..execution.runner import Runner
from ..settings import MigrationSettings
from ..urls.database_url import DatabaseURL

if TYPE_CHECKING:
    from .backups.backup import Backup  # optional


class Verdict(StrEnum):
    """The result of one of doctor's checks."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


Answer = tuple[Verdict, str]
"""The verdict, and what was found and how to fix it."""
Check = Callable[[], Awaitable[Answer]]


class Backend(ABC):
    """The database of one URL. It opens nothing by itself.

    Args:
        settings: of the instance, or of the command.
        url: the database.

    Raises:
        ConfigurationError: the driver of the database is not installed.
    """

    native_lock: ClassVar[str]
    """The database's own lock, for people: the strategy `advisory_lock`."""
    why_redis: ClassVar[str | None] = None
    """Why `auto` means Redis if a Redis URL is set; None where the native lock is enough."""
    transactional_ddl: ClassVar[bool] = True
    """Whether the database can roll DDL back."""
    holder_kind: ClassVar[str] = "session"
    """What holds the lock and has a number, for people."""
    second_connection: ClassVar[bool] = False
    """Whether revisions may run on a connection that env.py opens, under a second lock."""
    no_backup: ClassVar[str | None] = None
    """Why this package takes no backups of this database, and what does."""

    def __init__(self, settings: MigrationSettings, url: DatabaseURL) -> None:
        self.settings = settings
        self.url = url
        self.engine_url = url.sqlalchemy()
        self.limits = Limits(settings.lock_timeout_seconds, settings.statement_timeout_seconds, settings.idle_seconds)

    def check_strategy(self) -> None:  # noqa: B027 - most databases are safe with each
        """Refuse a strategy that is not safe with this database, whatever was asked for.

        Raises:
            ConfigurationError: the message names the row of the decision table.
        """

    @property
    def key(self) -> LockKey:
        """The key of the lock that guards the version table of the settings."""
        return LockKey.derive(self.settings.lock_name, self.settings.version_table, self._lock_namespace)

    @property
    def _lock_namespace(self) -> str | None:
        return self.settings.version_table_schema

    @property
    def lock_name(self) -> str:
        """The name of the lock in the database, for people."""
        return self.key.channel

    @abstractmethod
    def session(
        self,
        runner: Runner,
        schedule: LockRetrySchedule,
        role: str,
        backup: Backup | None = None,
        *,
        create_file: bool = True,
    ) -> OperatorSession:
        """A new session, not yet connected.

        Args:
            runner: runs the revisions.
            schedule: the lock timeouts of each revision's attempts.
            role: what the session's name says that it does: "waiting", "reading".
            backup: takes the backup that was asked for.
            create_file: whether a missing SQLite file is created.
        """

    @abstractmethod
    def sql_connection(self, *, create_file: bool = False) -> AbstractAsyncContextManager[AsyncConnection]:
        """An SQLAlchemy connection to read from, in transactions that are never committed.

        Raises: whatever the driver raises.
        """

    @abstractmethod
    async def end_holder(
        self, new_session: Callable[[], OperatorSession], history: sa.Table, *, force: bool
    ) -> Holder | None:
        """End the session that holds the lock, and record who did it; return it, or None if the lock is free.

        Args:
            new_session: makes a session with which the holder is looked up.
            history: the history table.
            force: end it even if it is making progress.

        Raises:
            LockHeld: it was not ended; the message says what frees the lock.
        """

    @asynccontextmanager
    async def checks(self, version: sa.Table, history: sa.Table) -> AsyncIterator[dict[str, Check]]:
        """Doctor's checks of the server, by name, on a connection that is open meanwhile."""
        yield {}
