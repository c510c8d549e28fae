"""Executes `env.py` to run revisions: on the session that holds the lock, or on the connection that it opens itself."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast

import sqlalchemy as sa

from ..core.protocols import MigrationRequest
from ..errors import ConfigurationError
from .env_options import Pass, merged
from .env_script import execute
from .env_search_path import chosen_schema
from .env_transaction import (
    begun_and_unused,
    begun_explicitly,
    beside_its_transaction,
    refuse_explicit_transaction,
    refuse_foreign,
    refuse_unusable,
)
from .revisions import Revisions
from .steps import StepPlan


class EnvRun:
    """One run of `env.py` on `connection`, with `options` merged into its own.

    If `env.py` runs the revisions for several version tables (a loop over schemas), only the pass `only` runs them.
    """

    def __init__(
        self, revisions: Revisions, connection: sa.Connection, options: dict[str, Any], only: Pass | None = None
    ) -> None:
        self._revisions = revisions
        self._connection = connection
        self._options = options
        self._only = only
        self._skips = False

    def run(self, plan: StepPlan, request: MigrationRequest) -> None:
        """Run the plan's steps.

        Raises:
            ForeignConnection: `env.py` does not migrate on the connection as it must; no revision ran.
            ConfigurationError: it failed, or passes options that conflict with the package's; no revision ran.
        """
        execute(self._revisions, self._connection, self, _environment_options(plan, request))

    def configure(self, configure: Callable[..., None], connection: Any, options: dict[str, Any]) -> None:
        """Configure Alembic with the merged options."""
        refuse_foreign(connection, self._connection)
        only, url = self._only, connection.engine.url
        self._skips = only is not None and not only.matches(options, chosen_schema(connection), url)
        if not self._skips:
            refuse_another_table(options, self._options)
        configure(connection=connection, **merged(options, self._options))

    def run_migrations(self, run: Callable[..., None], arguments: dict[str, Any]) -> None:
        """Run the revisions, unless this pass is for another version table."""
        if not self._skips:
            run(**arguments)


@dataclass(frozen=True)
class PreparedRun:
    """A run on one connection that `env.py` opened."""

    options: dict[str, Any]
    """The package's options for `configure`."""
    plan: StepPlan
    fail: Callable[[BaseException], BaseException]
    """Records a failure, and returns what is raised instead."""
    end: Callable[[], None]
    """Releases the second lock."""


class SecondEnvRun:
    """One run of an `env.py` on a connection beside the lock's, on which `begin` prepares the run.

    It blocks, and belongs in a thread without an event loop, because `env.py` may call `asyncio.run`. If `env.py` runs
    the revisions for several version tables, only the pass `only` runs them.
    """

    def __init__(
        self, revisions: Revisions, begin: Callable[[sa.Connection], PreparedRun], only: Pass | None = None
    ) -> None:
        self._revisions = revisions
        self._begin = begin
        self._only = only
        self._connection: sa.Connection | None = None
        self._own: PreparedRun | None = None

    def run(self, request: MigrationRequest, given: sa.Connection | None) -> None:
        """Run the steps of `request`; `given` is a connection for an `env.py` that opens none of its own.

        Raises:
            ForeignConnection: the connection cannot be used; no revision ran.
            ConfigurationError: `env.py` failed, or its options conflict with the package's; no revision ran.
            MigrationError: what `PreparedRun.fail` returned.
        """
        execute(self._revisions, given, self, _environment_options(self._planned, request))

    def configure(self, configure: Callable[..., None], connection: Any, options: dict[str, Any]) -> None:
        """Prepare the run on `connection` and configure Alembic with the merged options."""
        connection, only = self._usable(connection), self._only
        self._connection, self._own = connection, None
        if only is None or only.matches(options, chosen_schema(connection), connection.engine.url):
            self._own = self._begin(connection)
        try:
            if self._own is not None:
                refuse_another_table(options, self._own.options)
            configure(connection=connection, **merged(options, self._own.options if self._own else {}))
        except BaseException:
            self._end()
            raise

    def run_migrations(self, run: Callable[..., None], arguments: dict[str, Any]) -> None:
        """Run the revisions, unless this pass is for another version table."""
        own, connection = self._own, self._connection
        if own is None or connection is None:
            return
        refuse_explicit_transaction(begun_explicitly(connection))
        if connection.in_transaction():  # which SQLAlchemy began by itself
            connection.rollback()
        try:
            run(**arguments)
        except BaseException as error:
            raise own.fail(error) from error
        finally:
            self._end()

    def _usable(self, connection: Any) -> sa.Connection:
        if self._only is not None and self._only.target.url is not None and begun_and_unused(connection):
            return beside_its_transaction(connection)
        refuse_unusable(connection)
        return cast(sa.Connection, connection)

    def _end(self) -> None:
        if self._own is not None:
            with suppress(sa.exc.SQLAlchemyError):  # the session is lost, and the lock with it
                self._own.end()

    def _planned(self, heads: Any, context: Any) -> Any:
        assert self._own is not None
        return self._own.plan(heads, context)


def _environment_options(plan: StepPlan, request: MigrationRequest) -> dict[str, Any]:
    return {"fn": plan, "destination_rev": request.target, "purge": request.purge, "tag": request.tag}


def refuse_another_table(options: dict[str, Any], agreed: dict[str, Any]) -> None:
    """Raise `ConfigurationError` if `env.py` names another version table than before the lock, where `agreed` was."""
    for name in ("version_table", "version_table_schema"):
        if options.get(name) not in {None, agreed[name]}:
            raise ConfigurationError(
                f"env.py changed the {name}: it is {options[name]!r} under the lock and was {agreed[name]!r} before "
                "it. Nothing was migrated. To fix: let env.py name the same one each time"
            )
