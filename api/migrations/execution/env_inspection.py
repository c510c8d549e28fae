"""`env.py`, executed before any lock and with nothing run, to learn what it will say to Alembic.

Its imports are done then, within the wait budget; its shape is judged; and the version tables that it names are those
that everything looks at from then on. What it executes itself only reads here: a statement that would change anything
is left out, and is executed when the revisions run, under the lock.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.util import await_only, greenlet_spawn

from ..errors import ConfigurationError, ForeignConnection
from .env_options import VersionTable, agreed, merged, named
from .env_script import execute, refuse_foreign
from .env_search_path import chosen_schema
from .revisions import Revisions
from .statements import code, only_reads

NOTHING = "SELECT 1 FROM (SELECT 1 AS a) t WHERE 1 = 0"

Open = Callable[[], AbstractAsyncContextManager[AsyncConnection]]


@dataclass(frozen=True)
class Wanted:
    """What the settings say about the version table, and what the database is."""

    default: VersionTable
    """The version table where `env.py` does not say."""
    settings: dict[str, str | None]
    """The value of each setting about it that is set, by its name."""
    options: dict[str, Any]
    """Those of `configure` that the package insists on."""


async def inspect_env(revisions: Revisions, url: sa.URL, open_connection: Open, wanted: Wanted) -> list[VersionTable]:
    """Execute `env.py` and return the version tables for which it runs the revisions, in its order.

    It gets a connection that is opened only if it executes something on it.

    Raises:
        ForeignConnection: it would migrate on another connection, or in a transaction of its own.
        ConfigurationError: it fails by itself, contradicts a setting, or says what cannot be composed.
        MigrationError: it reads from the database, which could not be reached.
    """
    async with AsyncExitStack() as stack:

        def opened() -> sa.Connection:
            connection = await_only(stack.enter_async_context(open_connection()))
            sync = connection.sync_connection
            assert sync is not None
            return sync

        inspection = _Inspection(_UnopenedConnection(url, opened), wanted)
        plan = {"destination_rev": "head", "fn": _no_steps}
        await greenlet_spawn(execute, revisions, inspection.given, inspection, plan)
    return inspection.tables


def may_run_several(path: Path) -> bool:
    """Whether the text of `env.py` leaves open for which version tables and revisions it runs.

    Then the table that the settings name is not enough to tell that the database is at head: `env.py` has a loop, runs
    the revisions more often than its two modes (online, offline) need, chooses folders of revisions, or leaves all of
    it to another module.
    """
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return True  # executing it says what is wrong
    calls = [_name(node) for node in ast.walk(tree) if isinstance(node, ast.Call)]
    by_us, by_alembic = calls.count("run_env"), calls.count("run_migrations")
    loops = any(isinstance(node, ast.For | ast.AsyncFor | ast.While) for node in ast.walk(tree))
    folders = any(_mentions(node, "version_locations") for node in ast.walk(tree))
    return loops or folders or not (by_us or by_alembic) or by_us > 1 or by_alembic > 2


def _name(call: ast.Call) -> str:
    return str(getattr(call.func, "attr", None) or getattr(call.func, "id", ""))


def _mentions(node: ast.AST, word: str) -> bool:
    return word in (getattr(node, "attr", None), getattr(node, "value", None), getattr(node, "arg", None))


def _no_steps(heads: Any, context: Any) -> list[Any]:
    return []


class _Inspection:
    """The hooks: they note what `env.py` says, and run nothing."""

    def __init__(self, given: _UnopenedConnection, wanted: Wanted) -> None:
        self.given = given
        self.tables: list[VersionTable] = []
        self._wanted = wanted
        self._table = wanted.default

    def configure(self, configure: Callable[..., None], connection: Any, options: dict[str, Any]) -> None:
        refuse_foreign(connection, self.given)
        path = chosen_schema(self.given) if self.given.is_open else None
        self._table = agreed(named(options, self._wanted.default, path), options, self._wanted.settings)
        configure(connection=connection, **merged(options, self._wanted.options))

    def run_migrations(self, run: Callable[..., None], arguments: dict[str, Any]) -> None:
        if self.given.in_explicit_transaction:
            raise ForeignConnection(
                "env.py begins a transaction around context.run_migrations, so no revision could be committed by "
                "itself. To fix: leave out 'with connection.begin()'; 'with context.begin_transaction()' may stay"
            )
        if self._table in self.tables:
            raise ConfigurationError(
                f"env.py runs the revisions twice for the version table {self._table}. Nothing was migrated. To fix: "
                "give each pass a version_table or version_table_schema of its own"
            )
        self.tables.append(self._table)
        self.given.rollback()


class _UnopenedConnection(sa.Connection):
    """A connection that is opened when something is executed on it, and that changes nothing in the database."""

    def __init__(self, url: sa.URL, opened: Callable[[], sa.Connection]) -> None:
        engine = create_async_engine(url, poolclass=sa.NullPool).sync_engine
        unopened: Any = _Unopened()
        super().__init__(engine, unopened)
        # SQLAlchemy asks its engine for another connection when it next needs one
        self.invalidate()
        setattr(engine, "raw_connection", partial(self._open, opened))  # noqa: B010
        self._begun: sa.RootTransaction | None = None
        self.is_open = False
        sa.event.listen(self, "before_cursor_execute", _leave_out_changes, retval=True)

    @property
    def in_explicit_transaction(self) -> bool:
        """Whether a transaction is open that `env.py` itself began."""
        return self._begun is not None and self._begun.is_active

    def begin(self) -> sa.RootTransaction:
        """Begin a transaction, and note that `env.py` did."""
        self._begun = super().begin()
        return self._begun

    def _open(self, opened: Callable[[], sa.Connection]) -> sa.PoolProxiedConnection:
        real = opened()
        real.execution_options(postgresql_readonly=True)  # other databases ignore it
        self.engine, self.dialect, self.is_open = real.engine, real.dialect, True
        return real.connection


class _Unopened:
    """What SQLAlchemy holds for a connection that is not open."""

    is_valid = False


def _leave_out_changes(
    _connection: sa.Connection, _cursor: Any, statement: str, parameters: Any, *_: Any
) -> tuple[str, Any]:
    reads = only_reads(statement) or code(statement)[:4].upper() == "WITH"
    return (statement, parameters) if reads else (NOTHING, ())
