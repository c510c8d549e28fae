"""Executes `env.py` before the lock is acquired, without running revisions, to learn its options for Alembic.

This imports its modules within the wait budget, refuses an unsuitable `env.py`, and finds the version tables and
whether it opens a connection of its own. Here the statements of `env.py` that change anything are skipped, on any
connection; they are executed under the lock, when the revisions run.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.util import await_only, greenlet_spawn

from ..errors import ConfigurationError, ForeignConnection
from ..runtime.thread import start_blocking
from .bootstrap import models
from .env_options import Target, VersionTable, agreed, merged, named
from .env_reading import UnopenedConnection, changing_nothing
from .env_script import execute
from .env_search_path import chosen_schema
from .env_transaction import (
    OwnConnection,
    begun_and_unused,
    begun_explicitly,
    beside_its_transaction,
    refuse_explicit_transaction,
    refuse_foreign,
    refuse_open_transaction,
    refuse_unusable,
)
from .error_translation import translated
from .revisions import Revisions

Open = Callable[[], AbstractAsyncContextManager[AsyncConnection]]
_NO_REVISIONS = {"destination_rev": "head", "fn": lambda heads, context: []}


@dataclass(frozen=True)
class Wanted:
    """The version table and the options for Alembic that the settings name."""

    default: VersionTable
    """The version table if `env.py` names none."""
    settings: dict[str, str | None]
    """The settings about the version table that are set, by name."""
    options: dict[str, Any]
    """The package's options for `configure`."""
    models: bool = False
    """Whether it must pass the models as `target_metadata`."""


@dataclass(frozen=True)
class Inspected:
    """The answer of `env.py`."""

    targets: list[Target]
    """The version tables for which it runs the revisions, in its order."""
    own_connection: bool
    """Whether it opens a connection of its own."""


async def inspect_env(
    revisions: Revisions, url: sa.URL, connecting: str, open_connection: Open, wanted: Wanted
) -> Inspected:
    """Execute `env.py` and return its answer.

    `env.py` gets a connection that is opened only when it executes a statement. If it opens one of its own instead, it
    is executed once more without one, in a thread. `connecting` says for messages what `open_connection` does.

    Raises:
        ForeignConnection: it would migrate on another connection, or in its own transaction.
        ConfigurationError: it fails, contradicts a setting, or passes options that conflict with the package's.
        MigrationError: it reads from the database, which cannot be reached.
    """
    async with AsyncExitStack() as stack:

        def open_now() -> sa.Connection:
            connection = await_only(stack.enter_async_context(open_connection())).sync_connection
            assert connection is not None
            return connection

        inspection = _Inspection(UnopenedConnection(url, open_now), wanted)
        with suppress(OwnConnection), changing_nothing():
            await greenlet_spawn(execute, revisions, inspection.given, inspection, _NO_REVISIONS)
            return Inspected(inspection.targets, own_connection=False)
    # first, because env.py would fail for good if the server is unreachable, or the SQLite file does not exist
    async with translated(connecting), open_connection():
        pass
    own = _OwnInspection(wanted, url.get_backend_name())
    with changing_nothing():
        await start_blocking(partial(execute, revisions, None, own, _NO_REVISIONS), "env.py")
    return Inspected(own.settled(), own_connection=True)


class _Targets:
    """The version tables that `env.py` has named so far."""

    def __init__(self, wanted: Wanted) -> None:
        self.targets: list[Target] = []
        self._wanted = wanted
        self._table = wanted.default

    def _configure(
        self, configure: Callable[..., None], connection: sa.Connection, options: dict[str, Any], path: str | None
    ) -> None:
        self._table = agreed(named(options, self._wanted.default, path), options, self._wanted.settings)
        if self._wanted.models:
            models(options.get("target_metadata"))
        configure(connection=connection, **merged(options, self._wanted.options))

    def _add(self, url: sa.URL | None = None, database: str | None = None) -> None:
        if any((self._table, url) == (known.table, known.url) for known in self.targets):
            raise ConfigurationError(
                f"env.py runs the revisions twice for the version table {self._table}. Nothing was migrated. To fix: "
                "give each pass a version_table or version_table_schema of its own"
            )
        self.targets.append(Target(self._table, url, database))


class _Inspection(_Targets):
    """Hooks that record the version tables of `env.py` and run no revisions."""

    def __init__(self, given: UnopenedConnection, wanted: Wanted) -> None:
        super().__init__(wanted)
        self.given = given

    def configure(self, configure: Callable[..., None], connection: Any, options: dict[str, Any]) -> None:
        refuse_foreign(connection, self.given)
        path = chosen_schema(self.given) if self.given.is_open else None
        self._configure(configure, connection, options, path)

    def run_migrations(self, run: Callable[..., None], arguments: dict[str, Any]) -> None:
        refuse_explicit_transaction(self.given.in_explicit_transaction)
        self._add()
        self.given.rollback()


class _OwnInspection(_Targets):
    """The same for an `env.py` that opens connections of its own, to databases of the same `kind`."""

    def __init__(self, wanted: Wanted, kind: str) -> None:
        super().__init__(wanted)
        self._kind = kind
        self._enclosing: sa.Connection | None = None

    def configure(self, configure: Callable[..., None], connection: Any, options: dict[str, Any]) -> None:
        if begun_and_unused(connection):
            self._enclosing, connection = connection, beside_its_transaction(connection)
        refuse_unusable(connection)
        kind = connection.engine.url.get_backend_name().replace("mariadb", "mysql")
        if kind != self._kind:
            raise ForeignConnection(
                f"env.py connects to a {kind} database, but the URL of the settings names a {self._kind} one. To fix: "
                "let env.py use the same URL as DATABASE_URL"
            )
        self._connection: sa.Connection = connection
        self._configure(configure, connection, options, chosen_schema(connection))

    def run_migrations(self, run: Callable[..., None], arguments: dict[str, Any]) -> None:
        refuse_explicit_transaction(begun_explicitly(self._connection))
        url = self._connection.engine.url
        self._add(url, str(arguments.get("engine_name") or url.database))

    def settled(self) -> list[Target]:
        """Return the targets. Raises `ForeignConnection` if a transaction is open around those of one database."""
        if len({target.url for target in self.targets}) > 1:
            return self.targets
        if self._enclosing is not None:
            # with one database, env.py may rely on it that all revisions are applied or none
            refuse_open_transaction(self._enclosing)
        return [Target(target.table) for target in self.targets]
