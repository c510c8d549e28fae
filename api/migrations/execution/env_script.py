"""Executes `alembic/env.py` with hooks on its two calls of Alembic, `configure` and `run_migrations`.

It is executed twice: before the lock without running revisions (`env_inspection`), and on the session that holds the
lock (`env_run`).
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
from alembic.util.pyfiles import load_python_file
from sqlalchemy.util import await_only

from ..errors import ConfigurationError, DatabaseUnreachable, ForeignConnection, MigrationError
from ..runtime.cancellation import is_cancelled
from .env_transaction import REMEDY, OwnConnection
from .error_translation import describe, where
from .revisions import Revisions

GIVEN = "connection"
"""The key of `config.attributes` for the connection, as in Alembic's cookbook."""

ENV_LOCK_SECONDS = 10.0
_ENV_LOCK = threading.RLock()
_ENGINES = {"create_engine", "create_async_engine", "engine_from_config", "async_engine_from_config"}


class Hooks(Protocol):
    """The replacements of Alembic's functions that `env.py` calls."""

    def configure(self, configure: Callable[..., None], connection: Any, options: dict[str, Any]) -> None:
        """Replace `context.configure(connection=…, **options)`; `configure` is Alembic's own."""

    def run_migrations(self, run: Callable[..., None], arguments: dict[str, Any]) -> None:
        """Replace `context.run_migrations(**arguments)`; `run` is Alembic's own."""


def execute(
    revisions: Revisions, given: sa.Connection | None, hooks: Hooks, environment_options: Mapping[str, Any]
) -> None:
    """Execute `env.py` of `revisions` once with the connection `given`, and restore logging afterwards.

    With None it opens one of its own, and may call `asyncio.run`, so this thread must have no event loop then.
    `environment_options` are `fn` and `destination_rev`, as Alembic's commands pass them to `EnvironmentContext`.

    Raises:
        OwnConnection: a connection was given, and it uses one of its own.
        ConfigurationError: it failed, or did not call `run_migrations`.
        MigrationError: a hook raised it.
    """
    loggers, progress = _Loggers(), _Progress(hooks)
    config, directory = revisions.config, revisions.directory
    environment = EnvironmentContext(config, directory, **environment_options)
    # Alembic has no hooks for them, but its module-level proxies call the instance's attributes
    setattr(environment, "configure", partial(progress.configure, environment.configure, loggers))  # noqa: B010
    setattr(environment, "run_migrations", partial(progress.run_migrations, environment.run_migrations))  # noqa: B010
    if given is not None:
        config.attributes[GIVEN] = given
    try:
        with _installed(environment):
            # not `directory.run_env`, which `alembic_fleet_plugin` makes acquire the lock
            load_python_file(directory.dir, "env.py")
    except (Exception, SystemExit, asyncio.CancelledError) as error:
        cancelled = isinstance(error, asyncio.CancelledError) and is_cancelled()
        if progress.running or cancelled or isinstance(error, MigrationError):
            raise
        raise _failed(error, Path(directory.dir, "env.py"), given is not None) from error
    finally:
        loggers.restore()
        config.attributes.pop(GIVEN, None)
    progress.refuse_unfinished()


def _pause() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:  # the thread of a second connection
        time.sleep(ENV_LOCK_SECONDS / 200)
    else:
        await_only(asyncio.sleep(ENV_LOCK_SECONDS / 200))


@contextmanager
def _installed(environment: EnvironmentContext) -> Iterator[None]:
    """Install `environment` behind `alembic.context`, of which there is one in a process.

    A run in another thread is waited for. The environment of a run that is suspended in this thread, by another
    coordinator on the same event loop, is installed again at the end.

    Raises:
        DatabaseUnreachable: the run in the other thread did not finish in time; may be retried.
    """
    deadline = time.monotonic() + ENV_LOCK_SECONDS
    while not _ENV_LOCK.acquire(blocking=False):
        if time.monotonic() > deadline:
            raise DatabaseUnreachable(
                f"another start in this process has been executing env.py or its revisions for {ENV_LOCK_SECONDS:g} s"
            )
        _pause()
    suspended: EnvironmentContext | None = getattr(context, "_proxy", None)
    try:
        with environment:
            yield
    finally:
        if suspended is not None:
            suspended.__enter__()
        _ENV_LOCK.release()


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
        # an error while this runs is a revision's
        self.running = True
        self._hooks.run_migrations(run, arguments)
        self.running, self.ran = False, True

    def refuse_unfinished(self) -> None:
        """Raise if `env.py` did not call both functions."""
        if not self.configured:
            raise ForeignConnection(f"env.py never called context.configure. To fix: {REMEDY}")
        if not self.ran:
            raise ConfigurationError(
                "env.py called context.configure, but never context.run_migrations, so no revision would run. To fix: "
                "call context.run_migrations() in env.py"
            )


def _failed(error: BaseException, path: Path, was_given: bool) -> MigrationError:
    if was_given and "asyncio.run() cannot be called" in str(error):
        _close_coroutine(error)
        return OwnConnection(f"env.py opens a connection of its own. To fix: {REMEDY}")
    description = f"{describe(error, quotes=True)}{where(error, str(path))}"
    functions = {frame.name for frame in traceback.extract_tb(error.__traceback__)}
    connecting = isinstance(error, sa.exc.SQLAlchemyError | OSError) or functions & _ENGINES
    if was_given and connecting and not re.search(r"attributes|run_env", path.read_text()):
        return OwnConnection(f"env.py opens a connection of its own, which failed: {description}. To fix: {REMEDY}")
    return ConfigurationError(f"env.py failed: {description}. Nothing was migrated. To fix: correct {path}")


def _close_coroutine(error: BaseException) -> None:
    # asyncio.run refused it; Python would warn that it was never awaited
    frames = [frame.f_locals for frame, _ in traceback.walk_tb(error.__traceback__) if frame.f_code.co_name == "run"]
    for main in (local.get("main") for local in frames):
        if asyncio.iscoroutine(main):
            main.close()


class _Loggers:
    """The state of the service's loggers: `fileConfig` in Alembic's templates disables every existing logger."""

    def __init__(self) -> None:
        known = [logging.getLogger(), *logging.Logger.manager.loggerDict.values()]
        loggers = [logger for logger in known if isinstance(logger, logging.Logger)]
        self._states = [(each, each.disabled, each.level, each.propagate, each.handlers[:]) for each in loggers]

    def restore(self) -> None:
        """Restore the state."""
        for logger, disabled, level, propagate, handlers in self._states:
            logger.disabled, logger.propagate, logger.handlers[:] = disabled, propagate, handlers
            logger.setLevel(level)
