"""`env.py`, run on the connection that holds the lock.

`env.py` files in the wild come in four shapes; three of them would run the DDL outside that session or outside a
transaction of each revision. They are refused before anything is executed, with the remedy.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import sqlalchemy as sa
from alembic.runtime.environment import EnvironmentContext

from .errors import ForeignConnection, MigrationError
from .failures import describe
from .revisions import Revisions
from .steps import Plan

GIVEN = "connection"
"""Key of `config.attributes` under which `env.py` finds the connection, as Alembic's cookbook has it."""

_REMEDY = (
    "make alembic/env.py these three lines, or take context.config.attributes['connection'] there: "
    f"from {__package__}.environment import run_env | from your.models import Base | run_env(Base.metadata)"
)


class GivenEnvironment:
    """One run of `env.py` on `connection`, with `options` whatever it says itself."""

    def __init__(self, revisions: Revisions, connection: sa.Connection, options: dict[str, Any]) -> None:
        self._revisions = revisions
        self._connection = connection
        self._options = options
        self._loggers = _Loggers()
        self._configured = False

    def run(self, plan: Plan, target: str) -> None:
        """Run the plan's steps.

        Raises:
            ForeignConnection: `env.py` does not use the connection as it must; nothing was executed.
        """
        config = self._revisions.config
        config.attributes[GIVEN] = self._connection
        environment = EnvironmentContext(config, self._revisions.directory, fn=plan, destination_rev=target)
        # Alembic offers no hook on configure(); the instance's attribute is what its module-level proxy calls.
        setattr(environment, "configure", partial(self._configure, environment.configure))  # noqa: B010
        try:
            with environment:
                self._revisions.directory.run_env()
        except Exception as error:
            if self._configured or isinstance(error, MigrationError):
                raise
            if "asyncio.run() cannot be called" in str(error):
                raise ForeignConnection(f"env.py opens a connection of its own; {_REMEDY}") from error
            what = f"env.py failed before it took the connection ({describe(error)})"
            raise ForeignConnection(f"{what}; {_REMEDY}") from error
        finally:
            self._loggers.restore()
            config.attributes.pop(GIVEN, None)
        if not self._configured:
            raise ForeignConnection(f"env.py never called context.configure; {_REMEDY}")

    def _configure(
        self, configure: Callable[..., None], connection: sa.Connection | None = None, **options: Any
    ) -> None:
        if connection is not self._connection:
            raise ForeignConnection(f"env.py migrates on a connection that does not hold the lock; {_REMEDY}")
        if connection.in_transaction():
            raise ForeignConnection(f"env.py begins a transaction around all revisions; {_REMEDY}")
        self._configured = True
        self._loggers.restore()
        theirs = options.get("on_version_apply") or ()
        ours = self._options["on_version_apply"]
        callbacks = (*(theirs if isinstance(theirs, (list, tuple)) else (theirs,)), ours)
        configure(connection=connection, **{**options, **self._options, "on_version_apply": callbacks})


class _Loggers:
    """The service's logging as it was: `fileConfig` in Alembic's templates disables every logger that exists."""

    def __init__(self) -> None:
        known = [logging.getLogger(), *logging.Logger.manager.loggerDict.values()]
        loggers = [one for one in known if isinstance(one, logging.Logger)]
        self._were = [(one, one.disabled, one.level, one.propagate, one.handlers[:]) for one in loggers]

    def restore(self) -> None:
        """Undo what has been done to it since."""
        for logger, disabled, level, propagate, handlers in self._were:
            logger.disabled, logger.propagate, logger.handlers[:] = disabled, propagate, handlers
            logger.setLevel(level)
