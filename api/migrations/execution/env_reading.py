"""Lets `env.py` only read while it is executed before the lock: what changes anything is skipped, on any connection."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from types import SimpleNamespace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

from .dialects import missing_file
from .env_transaction import OwnConnection
from .statements import only_reads, uncommented

NOTHING = "SELECT 1 FROM (SELECT 1 AS a) t WHERE 1 = 0"

_INSPECTING: ContextVar[bool] = ContextVar("inspecting", default=False)


@contextmanager
def changing_nothing() -> Iterator[None]:
    """Skip the statements that change anything on each connection that is opened inside."""

    def leave_out(*arguments: Any) -> tuple[str, Any]:
        # an engine of another thread or task is not inspected
        return _leave_out_changes(*arguments) if _INSPECTING.get() else arguments[2:4]

    def only_read(connection: sa.Connection) -> None:
        # a SELECT may call a function that writes
        if _INSPECTING.get():
            connection.execution_options(postgresql_readonly=True)

    def create_no_file(dialect: sa.Dialect, _record: Any, arguments: tuple[Any, ...], _options: Any) -> None:
        file = missing_file(dialect, arguments) if _INSPECTING.get() else None
        if file is not None:
            raise OwnConnection(
                f"env.py opens the SQLite file {file}, which does not exist. To fix: let env.py use the same URL as "
                "DATABASE_URL"
            )

    token = _INSPECTING.set(True)
    sa.event.listen(sa.Engine, "before_cursor_execute", leave_out, retval=True)
    sa.event.listen(sa.Engine, "engine_connect", only_read)
    sa.event.listen(sa.Engine, "do_connect", create_no_file)
    try:
        yield
    finally:
        sa.event.remove(sa.Engine, "do_connect", create_no_file)
        sa.event.remove(sa.Engine, "engine_connect", only_read)
        sa.event.remove(sa.Engine, "before_cursor_execute", leave_out)
        _INSPECTING.reset(token)


class UnopenedConnection(sa.Connection):
    """A connection that is opened by the first statement, and that changes nothing in the database."""

    def __init__(self, url: sa.URL, open_now: Callable[[], sa.Connection]) -> None:
        engine = create_async_engine(url, poolclass=sa.NullPool).sync_engine
        unopened: Any = SimpleNamespace(is_valid=False)
        super().__init__(engine, unopened)
        # an invalidated connection gets another one from its engine at the next statement
        self.invalidate()
        setattr(engine, "raw_connection", partial(self._open, open_now))  # noqa: B010
        self._begun: sa.RootTransaction | None = None
        self.is_open = False
        sa.event.listen(self, "before_cursor_execute", _leave_out_changes, retval=True)

    @property
    def in_explicit_transaction(self) -> bool:
        """Whether a transaction that `env.py` began is open."""
        return self._begun is not None and self._begun.is_active

    def begin(self) -> sa.RootTransaction:
        """Begin a transaction, and remember that `env.py` began it."""
        self._begun = super().begin()
        return self._begun

    def _open(self, open_now: Callable[[], sa.Connection]) -> sa.PoolProxiedConnection:
        real = open_now()
        real.execution_options(postgresql_readonly=True)  # the other databases' dialects ignore it
        self.engine, self.dialect, self.is_open = real.engine, real.dialect, True
        return real.connection


def _leave_out_changes(
    _connection: sa.Connection, _cursor: Any, statement: str, parameters: Any, *_: Any
) -> tuple[str, Any]:
    reads = only_reads(statement) or uncommented(statement)[:4].upper() == "WITH"
    return (statement, parameters) if reads else (NOTHING, ())
