"""`alembic/env.py`, executed with hooks on the two calls of Alembic that it makes: `configure` and `run_migrations`.

It is executed twice: once before any lock, up to its `configure` and with nothing run (`env_inspection`), and once on
the session that holds the lock (`env_run`). Both judge its shape in the same words.
"""

from __future__ import annotations

import asyncio
import logging
import re
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import sqlalchemy as sa
from alembic import context
from alembic.runtime.environment import EnvironmentContext
from sqlalchemy.util import await_only

from ..errors import ConfigurationError, DatabaseUnreachable, ForeignConnection, MigrationError
from ..runtime.cancellation import is_cancelled
from .error_translation import describe, where
from .revisions import Revisions

GIVEN = "connection"
"""Key of `config.attributes` under which `env.py` finds the connection, as Alembic's cookbook has it."""

PACKAGE = (__package__ or "").rpartition(".")[0]
"""A project that copied the package may have given it another name."""
REMEDY = (
    "To fix: make alembic/env.py these three lines, or take context.config.attributes['connection'] there: "
    f"from {PACKAGE}.environment import run_env | from your.models import Base | run_env(Base.metadata)"
)
TURN_SECONDS = 10.0
_TURN = threading.RLock()
_ENGINES = {"create_engine", "create_async_engine", "engine_from_config", "async_engine_from_config"}


class Hooks(Protocol):
    """What happens where `env.py` calls Alembic."""

    def configure(self, configure: Callable[..., None], connection: Any, options: dict[str, Any]) -> None:
        """Called for `context.configure(connection=…, **options)`; `configure` is Alembic's own."""

    def run_migrations(self, run: Callable[..., None], arguments: dict[str, Any]) -> None:
        """Called for `context.run_migrations(**arguments)`; `run` is Alembic's own."""


def execute(revisions: Revisions, given: sa.Connection, hooks: Hooks, what: Mapping[str, Any]) -> None:
    """Execute `env.py` once, with `given` as the connection that it finds, and leave logging as it was.

    Args:
        revisions: whose `env.py`.
        given: the connection.
        hooks: what its calls of Alembic do.
        what: is asked of it: `fn` and `destination_rev`, as Alembic's commands give them to `EnvironmentContext`.

    Raises:
        ForeignConnection: it migrates on a connection of its own.
        ConfigurationError: it failed by itself, or never came to `run_migrations`.
        MigrationError: whatever the hooks raise.
    """
    loggers, progress = _Loggers(), _Progress(hooks)
    config, directory = revisions.config, revisions.directory
    environment = EnvironmentContext(config, directory, **what)
    # Alembic offers no hook on either; the instance's attributes are what its module-level proxies call
    setattr(environment, "configure", partial(progress.configure, environment.configure, loggers))  # noqa: B010
    setattr(environment, "run_migrations", partial(progress.run_migrations, environment.run_migrations))  # noqa: B010
    config.attributes[GIVEN] = given
    try:
        with _installed(environment):
            directory.run_env()
    except (Exception, SystemExit, asyncio.CancelledError) as error:
        cancelled = isinstance(error, asyncio.CancelledError) and is_cancelled()
        if progress.running or cancelled or isinstance(error, MigrationError):
            raise
        raise _failed(error, Path(directory.dir, "env.py")) from error
    finally:
        loggers.restore()
        config.attributes.pop(GIVEN, None)
    if not progress.configured:
        raise ForeignConnection(f"env.py never called context.configure. {REMEDY}")
    if not progress.ran:
        raise ConfigurationError(
            "env.py called context.configure, but never context.run_migrations, so no revision would run. To fix: call "
            "context.run_migrations() in it"
        )


@contextmanager
def _installed(environment: EnvironmentContext) -> Iterator[None]:
    """`environment` behind `alembic.context`, which is one for the whole process.

    A run in another thread is waited for. One that is suspended in this thread, because another coordinator of the same
    event loop has its turn, gets its own back.

    Raises:
        DatabaseUnreachable: the run in the other thread takes long; worth another try.
    """
    deadline = time.monotonic() + TURN_SECONDS
    while not _TURN.acquire(blocking=False):
        if time.monotonic() > deadline:
            raise DatabaseUnreachable("another start in this process executes env.py or its revisions")
        await_only(asyncio.sleep(TURN_SECONDS / 200))
    suspended: EnvironmentContext | None = getattr(context, "_proxy", None)
    try:
        with environment:
            yield
    finally:
        if suspended is not None:
            suspended.__enter__()
        _TURN.release()


def refuse_foreign(connection: Any, given: sa.Connection) -> None:
    """Make sure that `configure` was handed the connection that `env.py` was given, outside a transaction.

    Raises:
        ForeignConnection: it was not.
    """
    if connection is not given:
        raise ForeignConnection(f"env.py migrates on a connection that does not hold the lock. {REMEDY}")
    if given.in_transaction():
        raise ForeignConnection(
            "env.py begins a transaction around all revisions, so none could be committed by itself: a transaction is "
            "open when it calls context.configure. To fix: call connection.commit() after what it executes before "
            f"that, and leave out 'with connection.begin()'. Or: {REMEDY}"
        )


class _Progress:
    def __init__(self, hooks: Hooks) -> None:
        self._hooks = hooks
        self.configured = self.running = self.ran = False

    def configure(
        self, configure: Callable[..., None], loggers: _Loggers, connection: Any = None, **options: Any
    ) -> None:
        self._hooks.configure(configure, connection, options)
        self.configured = True
        loggers.restore()

    def run_migrations(self, run: Callable[..., None], **arguments: Any) -> None:
        # what fails from here to its end is a revision's, and told as such
        self.running = True
        self._hooks.run_migrations(run, arguments)
        self.running, self.ran = False, True


def _failed(error: BaseException, path: Path) -> MigrationError:
    if "asyncio.run() cannot be called" in str(error):
        return ForeignConnection(f"env.py opens a connection of its own. {REMEDY}")
    what = f"{describe(error, quotes=True)}{where(error, str(path))}"
    functions = {frame.name for frame in traceback.extract_tb(error.__traceback__)}
    connecting = isinstance(error, sa.exc.SQLAlchemyError | OSError) or functions & _ENGINES
    if connecting and not re.search(r"attributes|run_env", path.read_text()):
        return ForeignConnection(f"env.py opens a connection of its own, which failed: {what}. {REMEDY}")
    return ConfigurationError(f"env.py failed: {what}. Nothing was migrated. To fix: correct {path}")


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
