"""The interface of `databases/<name>/backend.py`: what differs between the databases."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, ClassVar

import sqlalchemy as sa

from ..core.lock_key import LockKey
from ..core.protocols import OperatorSession
from ..core.status import Holder
from ..errors import NoClone
from ..execution.limits import Limits
from ..execution.lock_retry import LockRetrySchedule
from ..execution.runner import Runner
from ..settings import MigrationSettings
from ..urls.database_url import DatabaseURL

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

    from .backups.backup import Backup  # optional


class Verdict(StrEnum):
    """The result of one of doctor's checks."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


Answer = tuple[Verdict, str]
"""The verdict, and a text: what was found, and how to fix it."""
Check = Callable[[], Awaitable[Answer]]


@dataclass(frozen=True)
class TableSize:
    """The size of a table with its indexes, TOAST and partitions; `rows` is an estimate, None if unknown."""

    bytes: int
    rows: int | None


Cloning = AbstractAsyncContextManager[tuple["Backend", str, Sequence[str]]]
"""Yields the backend of the clone, its name, and the names of clones that earlier commands left behind."""


class Backend(ABC):
    """The database of one URL; it connects only when asked.

    Raises `ConfigurationError` if the driver of the database is not installed.
    """

    native_lock: ClassVar[str]
    """Describes the database's own lock, the strategy `advisory_lock`, in messages."""
    why_redis: ClassVar[str | None] = None
    """Why `auto` prefers Redis if a Redis URL is set; None if it does not."""
    transactional_ddl: ClassVar[bool] = True
    """Whether the database can roll DDL back."""
    holder_kind: ClassVar[str] = "session"
    """What holds the lock and has a number, in messages."""
    no_clone: ClassVar[str] = ""
    """Why `plan` runs no revisions in a clone of this database."""
    lock_rules: ClassVar[bool] = False
    """Whether the lock modes of statements are those of PostgreSQL's documentation."""
    no_backup: ClassVar[str | None] = None
    """Why this package takes no backups of this database, and what to do instead; None if it takes them."""

    def __init__(self, settings: MigrationSettings, url: DatabaseURL) -> None:
        self.settings = settings
        self.url = url
        self.engine_url = url.sqlalchemy()
        self.limits = Limits(settings.lock_timeout_seconds, settings.statement_timeout_seconds, settings.idle_seconds)

    def check_strategy(self) -> None:  # noqa: B027 - most databases need no check
        """Raise `ConfigurationError` if the strategy of the settings is not safe with this database."""

    @property
    def key(self) -> LockKey:
        """The key of the lock that guards the version table of the settings."""
        return LockKey.derive(self.settings.lock_name, self.settings.version_table, self._lock_namespace)

    @property
    def _lock_namespace(self) -> str | None:
        return self.settings.version_table_schema

    @property
    def lock_name(self) -> str:
        """The name of the lock in the database, for messages."""
        return self.key.channel

    @abstractmethod
    def session(
        self, runner: Runner, schedule: LockRetrySchedule, role: str, backup: Backup | None = None, *, create_file: bool
    ) -> OperatorSession:
        """Return a new session, not yet connected.

        Args:
            runner: runs the revisions.
            schedule: the lock timeouts of each revision's attempts.
            role: "waiting" or "reading", for the session's name in PostgreSQL.
            backup: takes the requested backup.
            create_file: creates a missing SQLite file.
        """

    @abstractmethod
    def sql_connection(self, *, create_file: bool = False) -> AbstractAsyncContextManager[AsyncConnection]:
        """Open an SQLAlchemy connection to read from; its transactions are never committed.

        `create_file` creates a missing SQLite file. The errors are the driver's.
        """

    @abstractmethod
    async def end_holder(
        self, new_session: Callable[[], OperatorSession], history: sa.Table, *, force: bool
    ) -> Holder | None:
        """Terminate the lock holder's session and record that in `history`; return it, None if the lock is free.

        `force` terminates it even if it is making progress. Raises `LockHeld` if it was not terminated; the message
        says what frees the lock.
        """

    def clone(self, on: DatabaseURL | None, version: sa.Table, revisions: frozenset[str]) -> Cloning:
        """Make a temporary database with this one's schema, and drop it at the end.

        Args:
            on: another server for it.
            version: the version table.
            revisions: those that the version table of the clone has.

        Raises:
            NoClone: there is none, and the message says why.
        """
        raise NoClone(self.no_clone)

    async def table_sizes(self, names: Sequence[str]) -> dict[str, TableSize]:
        """Return the sizes of those of the tables that exist; empty if the database does not know them."""
        return {}

    @asynccontextmanager
    async def checks(self, version: sa.Table, history: sa.Table) -> AsyncIterator[dict[str, Check]]:
        """Yield doctor's checks of the server by name; their connection stays open until the block ends."""
        yield {}
