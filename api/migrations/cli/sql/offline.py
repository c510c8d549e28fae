"""The connection that a revision gets in offline mode, which executes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy import inspection
from sqlalchemy.engine.mock import MockConnection
from sqlalchemy.exc import NoResultFound

from ...errors import ConfigurationError
from .tables import Tables


class OfflineConnection(MockConnection):
    """A connection without a database: it keeps what is executed, and every result is empty."""

    def __init__(self, dialect: Any, execute: Any, tables: Tables) -> None:
        super().__init__(dialect, execute)
        self.tables = tables
        self.autocommits = False
        self.checks_first = False

    def execution_options(self, **options: Any) -> OfflineConnection:
        """Note the isolation level AUTOCOMMIT."""
        if "isolation_level" in options:
            self.autocommits = str(options["isolation_level"]).upper() == "AUTOCOMMIT"
        return self

    def _run_ddl_visitor(self, visitorcallable: Any, element: Any, **kwargs: Any) -> None:
        self.checks_first = bool(kwargs.get("checkfirst"))
        try:
            super()._run_ddl_visitor(visitorcallable, element, **kwargs)
        finally:
            self.checks_first = False

    def execute(self, obj: Any, parameters: Any = None, execution_options: Any = None) -> Empty:
        """Keep the statement and return an empty result."""
        self._execute_impl(obj, parameters)
        return Empty()

    exec_driver_sql = execute

    def scalar(self, *arguments: Any, **options: Any) -> None:
        """Keep the statement; the result has no row."""
        self.execute(*arguments, **options)

    def scalars(self, *arguments: Any, **options: Any) -> Empty:
        """Keep the statement and return an empty result."""
        return self.execute(*arguments, **options)

    @contextmanager
    def begin_nested(self) -> Iterator[None]:
        """Do nothing: a savepoint does not end the transaction."""
        yield

    begin = begin_nested


@contextmanager
def without_connections() -> Iterator[None]:
    """Refuse the connections that a revision opens with SQLAlchemy and a URL of its own."""

    def refuse(*_: Any) -> None:
        raise ConfigurationError("the revision opens a database connection of its own, which is refused here")

    sa.event.listen(sa.Engine, "do_connect", refuse)
    try:
        yield
    finally:
        sa.event.remove(sa.Engine, "do_connect", refuse)


class Empty:
    """A result without rows."""

    rowcount = 0

    def __iter__(self) -> Iterator[Any]:
        """Return an iterator without rows."""
        return iter(())

    def all(self) -> list[Any]:
        """Return no rows."""
        return []

    def first(self) -> None:
        """Return None, because there is no row."""

    def mappings(self) -> Empty:
        """Return the same empty result."""
        return self

    def one(self) -> Any:
        """Raise `NoResultFound`, because there is no row."""
        raise NoResultFound("there is no database, so this query has no row")

    fetchall = all
    fetchone = one_or_none = scalar = scalar_one_or_none = first
    scalars = mappings
    scalar_one = one


class OfflineInspector:
    """What `sa.inspect(op.get_bind())` returns: the tables and columns that earlier revisions made."""

    def __init__(self, connection: OfflineConnection) -> None:
        self._columns = connection.tables.columns

    def has_table(self, name: str, *_arguments: Any, **_options: Any) -> bool:
        """Return whether an earlier statement made the table."""
        return name in self._columns

    def get_table_names(self, *_arguments: Any, **_options: Any) -> list[str]:
        """Return the tables."""
        return list(self._columns)

    def get_columns(self, name: str, *_arguments: Any, **_options: Any) -> list[dict[str, str]]:
        """Return the names of the columns."""
        return [{"name": column} for column in self._columns.get(name, {})]

    def _nothing(self, *_arguments: Any, **_options: Any) -> list[Any]:
        return []

    get_indexes = get_foreign_keys = get_unique_constraints = get_check_constraints = get_enums = _nothing
    get_view_names = get_schema_names = _nothing


inspection._inspects(OfflineConnection)(OfflineInspector)
