"""Executes `upgrade()` of a revision in Alembic's offline mode, and keeps each statement with its line."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from alembic.operations import Operations
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from alembic.script import Script
from sqlalchemy import Dialect, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import SQLAlchemyError

from ...errors import in_full
from ...execution.error_translation import describe
from ...execution.revisions import Revisions
from .action import Action
from .actions import actions
from .offline import OfflineConnection, without_connections
from .tables import Tables
from .tokens import joined, statements

_MOST = 5_000
"""The most statements of a revision that are rendered: a loop that waits for a row would never end."""


@dataclass(frozen=True)
class Statement:
    """A statement that a revision executes, in the order of execution."""

    sql: str
    line: int
    """The line of the revision file whose execution led to it."""
    transaction: int | None
    """The number of its transaction in the revision; None in an `autocommit_block`."""
    actions: Sequence[Action]
    was: str = ""
    """The type that the column had, if the revision says so (`existing_type`)."""
    guarded: bool = False
    """Whether it is only executed if its object does not exist (`checkfirst`)."""
    strings: Sequence[str] = ()
    """Its string literals, without quotes."""
    written: str = ""
    """All that was executed with it, as it was written."""


@dataclass
class Rendered:
    """The statements of one revision."""

    script: Script
    statements: list[Statement] = field(default_factory=list)
    stopped: str | None = None
    """Why the rest of `upgrade()` could not be rendered."""
    stopped_at: int = 1
    reads: bool = False
    """Whether `upgrade()` depends on what it reads, or on the offline mode: in a database it may do something else."""


def in_order(revisions: Revisions) -> list[Script]:
    """Return all revisions, a parent before its children."""
    return list(reversed(list(revisions.directory.walk_revisions())))


def render(revisions: Revisions, script: Script, tables: Tables, dialect: Dialect | None = None) -> Rendered:
    """Execute `upgrade()` without a database; what it reads from one is empty, but for `tables`.

    The statements are those for `dialect`, by default PostgreSQL's.
    """
    result = Rendered(script)
    config, directory = revisions.config, revisions.directory
    with EnvironmentContext(config, directory, as_sql=True) as environment:
        context = _OfflineContext(environment, result, tables, dialect or postgresql.dialect(paramstyle="named"))  # type: ignore[no-untyped-call]
        environment._migration_context = context
        setattr(environment, "is_offline_mode", context.is_offline)  # noqa: B010
        try:
            with Operations.context(context), without_connections():
                script.module.upgrade()
        except (Exception, SystemExit) as error:  # a revision may raise anything
            result.stopped, result.stopped_at = in_full(describe(error, quotes=True)), _line_of(error, script.path)
    result.reads = context.connection_was_read
    return result


class _OfflineContext(MigrationContext):
    """Alembic's context of the offline mode, which keeps statements instead of writing them."""

    def __init__(self, environment: EnvironmentContext, result: Rendered, tables: Tables, dialect: Dialect) -> None:
        self._result = result
        self._tables = tables
        self._transaction_number: int | None = 0
        self._transactions = 0
        options: dict[str, Any] = {"as_sql": True, "transactional_ddl": True}
        super().__init__(dialect, None, options, environment)
        setattr(self.impl, "_exec", self._keep)  # noqa: B010 - every operation ends there

    def _stdout_connection(self, connection: Any) -> Any:
        self._connection = OfflineConnection(self.dialect, self._execute, self._tables)
        return self._connection

    @property
    def connection_was_read(self) -> bool:
        """Whether the revision read anything."""
        return bool(self._connection.was_read)

    def is_offline(self) -> bool:
        """Return True; a revision that asks does something else in a database."""
        self._connection.was_read = True
        return True

    @contextmanager
    def autocommit_block(self) -> Iterator[None]:
        """Keep the statements inside as those of no transaction."""
        self._transaction_number = None
        try:
            yield
        finally:
            self._begin()

    def _begin(self) -> None:
        self._transactions += 1
        self._transaction_number = self._transactions

    def _execute(self, construct: Any, *_parameters: Any) -> None:
        self._keep(construct)

    def _keep(
        self, construct: Any, _options: Any = None, _many: Any = None, params: Mapping[str, Any] | None = None
    ) -> None:
        construct = text(construct) if isinstance(construct, str) else construct
        line, was = line_in(self._result.script.path), getattr(construct, "existing_type", None)
        previous = was.compile(dialect=self.dialect).lower() if was is not None else ""
        written = self._compiled(construct)
        for tokens in statements(written):
            found = actions(tokens)
            if found[0].kind in {"commit", "begin"}:  # executed as text
                self._transaction_number = None
                if found[0].kind == "begin":
                    self._begin()
                continue
            number = None if self._connection.autocommits else self._transaction_number
            strings = [token.text.strip("'") for token in tokens if token.kind == "string"]
            guarded = self._connection.checks_first
            if len(self._result.statements) == _MOST:
                raise OverflowError(f"it executes more than {_MOST} statements; a loop may wait for a row")
            statement = Statement(normal(tokens), line, number, found, previous, guarded, strings, written)
            self._result.statements.append(statement)
            self._tables.learn(statement.actions)

    def _compiled(self, construct: Any) -> str:
        try:
            return str(construct.compile(dialect=self.dialect, compile_kwargs={"literal_binds": True}))
        except (SQLAlchemyError, TypeError, NotImplementedError):  # a value has no literal form
            return str(construct.compile(dialect=self.dialect))


def line_in(path: str) -> int:
    """Return the line of the file `path` that is being executed; 1 if it is not."""
    frame = sys._getframe()
    while frame.f_back is not None and frame.f_code.co_filename != path:
        frame = frame.f_back
    return frame.f_lineno if frame.f_code.co_filename == path else 1


def normal(tokens: Sequence[Any]) -> str:
    """Return the text of a statement, in which only what it means makes a difference."""
    quoted = [type(t)(f'"{t.text}"', t.kind) if t.kind == "quoted" else t for t in tokens]
    return joined(quoted)


def _line_of(error: BaseException, path: str) -> int:
    line, trace = 1, error.__traceback__
    while trace is not None:
        line = trace.tb_lineno if trace.tb_frame.f_code.co_filename == path else line
        trace = trace.tb_next
    return line
