"""The application's functions that run under the lock: `before` the first revision of a run, and `after` the last one.

A function receives the session that holds the lock: an `AsyncConnection` if it is a coroutine function, else a
`Connection`. It runs in one transaction with its history row, which the package commits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import iscoroutinefunction
from typing import Any, Literal

import sqlalchemy as sa

from ..errors import ConfigurationError
from ..runtime.import_path import imported
from ..runtime.thread import wait_on_loop
from .error_translation import describe

Moment = Literal["before", "after"]
Function = Callable[[Any], Any]


@dataclass(frozen=True)
class Hook:
    """A function, or its import path `package.module:function`."""

    moment: Moment
    given: Function | str

    @property
    def title(self) -> str:
        """The name for messages."""
        named = self.given if isinstance(self.given, str) else getattr(self.given, "__qualname__", repr(self.given))
        return f"the function '{self.moment}' ({named})"

    def load(self) -> Function:
        """Return the function. Raises `ConfigurationError` if it cannot be imported."""
        if not isinstance(self.given, str):
            return self.given
        try:
            return imported(self.given)
        except Exception as error:
            setting, why = f"MIGRATION_{self.moment.upper()}", describe(error, quotes=True)
            raise ConfigurationError(
                f"{setting}={self.given!r} cannot be used: {why}. To fix: set it to package.module:function"
            ) from error

    def call(self, connection: sa.Connection) -> None:
        """Call the function, on the migration thread's loop if it is a coroutine function.

        Raises:
            InvalidRequestError: the function ended the transaction.
        """
        function, ended = self.load(), False

        def end(_: sa.Connection) -> None:
            nonlocal ended
            ended = True

        with _listening(connection, end):
            if iscoroutinefunction(function):
                from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

                session = AsyncConnection(AsyncEngine(connection.engine), connection)
                wait_on_loop(lambda: function(session))
            else:
                function(connection)
        if ended:
            raise sa.exc.InvalidRequestError(
                "it ended its own transaction. To fix: leave commit() and rollback() to the package, or use "
                "a savepoint (connection.begin_nested())"
            )


@contextmanager
def _listening(connection: sa.Connection, end: Callable[[sa.Connection], None]) -> Iterator[None]:
    for event in ("commit", "rollback"):
        sa.event.listen(connection, event, end)
    try:
        yield
    finally:
        for event in ("commit", "rollback"):
            sa.event.remove(connection, event, end)


@dataclass(frozen=True)
class Hooks:
    """The functions of one application; None if there is none."""

    before: Hook | None = None
    after: Hook | None = None

    @classmethod
    def of(cls, before: Function | str | None, after: Function | str | None) -> Hooks:
        """Return the hooks for two functions or import paths."""
        return cls(Hook("before", before) if before else None, Hook("after", after) if after else None)

    def load(self) -> None:
        """Import the functions. Raises `ConfigurationError` if one cannot be imported."""
        for hook in filter(None, (self.before, self.after)):
            hook.load()
