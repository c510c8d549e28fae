"""PostgreSQL: an advisory lock on the session that runs the revisions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, cast

import asyncpg
import sqlalchemy as sa

from ...core.protocols import OperatorSession
from ...core.status import Holder
from ...execution.error_translation import translate, translated
from ...execution.limits import Limits
from ...execution.lock_retry import LockRetrySchedule
from ...execution.runner import Runner
from ...lock_manager import application_name
from ...urls.database_url import DatabaseURL
from ..backend import Backend, Check, TableSize
from . import diagnostics, terminate
from .connection import connect, engine_over, quoted
from .session import CLOSE_SECONDS, PostgresSession

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

    from ..backups.backup import Backup  # optional
    from ..backups.postgres import PostgresBackup


class PostgresBackend(Backend):
    """One PostgreSQL database."""

    lock_rules = True
    native_lock = "an advisory lock of the server, on the session that runs the revisions"

    @property
    def lock_name(self) -> str:
        """The key, also as `pg_locks` shows it."""
        return str(self.key)

    def session(
        self, runner: Runner, schedule: LockRetrySchedule, role: str, backup: Backup | None = None, *, create_file: bool
    ) -> OperatorSession:
        """Return a new session, not yet connected."""
        own = cast("PostgresBackup | None", backup)
        return PostgresSession(self.url, self.key, self.limits, schedule, runner, role, own)

    @asynccontextmanager
    async def sql_connection(self, *, create_file: bool = False) -> AsyncIterator[AsyncConnection]:
        """Open an SQLAlchemy connection to read from."""
        raw = await connect(self.url, Limits(), self._name("reading"))
        try:
            async with engine_over(raw, "READ COMMITTED").connect() as connection:
                yield connection
        finally:
            await raw.close(timeout=CLOSE_SECONDS)

    async def end_holder(
        self, new_session: Callable[[], OperatorSession], history: sa.Table, *, force: bool
    ) -> Holder | None:
        """Terminate the holder's session, unless it is making progress."""
        async with self._connection("unlocking") as connection:
            ended = await terminate.unlock(connection, self.key, force=force)
            if ended is not None:
                await terminate.record(connection, quoted(history), self.settings.instance, ended)
        return ended

    @asynccontextmanager
    async def clone(
        self, on: DatabaseURL | None, version: sa.Table, revisions: frozenset[str]
    ) -> AsyncIterator[tuple[Backend, str, Sequence[str]]]:
        """Yield a temporary database with this one's schema."""
        from .clone import schema_clone

        server, name = on or self.url, self._name("reading")
        async with schema_clone(self.url, server, name, quoted(version), revisions) as clone:
            yield PostgresBackend(self.settings, clone.url), clone.name, clone.leftovers

    async def table_sizes(self, names: Sequence[str]) -> dict[str, TableSize]:
        """Return the sizes of those of the tables that exist, in one query that only reads."""
        from .table_sizes import table_sizes

        async with self._connection("reading") as connection:
            return await table_sizes(connection, names)

    @asynccontextmanager
    async def checks(self, version: sa.Table, history: sa.Table) -> AsyncIterator[dict[str, Check]]:
        """Yield the checks of the server and of the roles' privileges."""
        tables = quoted(version), quoted(history)
        async with self._connection("reading") as connection:
            checks: dict[str, Check] = {
                check.__name__: partial(check, connection) for check in diagnostics.SERVER_CHECKS
            }
            schema = self.settings.version_table_schema
            checks["privileges"] = partial(diagnostics.privileges, connection, schema)
            checks["service"] = partial(diagnostics.service, self.settings, self.limits, self._name("reading"), tables)
            yield checks

    def _name(self, role: str) -> str:
        return application_name(self.key, role, self.settings.instance)

    @asynccontextmanager
    async def _connection(self, role: str) -> AsyncIterator[asyncpg.Connection]:
        try:
            async with translated(self.url.connecting):
                raw = await connect(self.url, self.limits, self._name(role))
            try:
                yield raw
            finally:
                await raw.close(timeout=CLOSE_SECONDS)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
            raise translate(error, "reading from the server") from error
