"""Executes `env.py` on the session that holds the lock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from ..errors import ConfigurationError
from .env_options import Pass, merged, named
from .env_script import execute, refuse_foreign
from .env_search_path import chosen_schema
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

    def run(self, plan: StepPlan, target: str) -> None:
        """Run the plan's steps.

        Raises:
            ForeignConnection: `env.py` does not migrate on the connection as it must; no revision ran.
            ConfigurationError: it failed, or passes options that conflict with the package's; no revision ran.
        """
        execute(self._revisions, self._connection, self, {"fn": plan, "destination_rev": target})

    def configure(self, configure: Callable[..., None], connection: Any, options: dict[str, Any]) -> None:
        """Configure Alembic with the merged options."""
        refuse_foreign(connection, self._connection)
        only = self._only
        self._skips = only is not None and only.table != named(options, only.default, chosen_schema(self._connection))
        if not self._skips:
            self._refuse_another_table(options)
        configure(connection=connection, **merged(options, self._options))

    def run_migrations(self, run: Callable[..., None], arguments: dict[str, Any]) -> None:
        """Run the revisions, unless this pass is for another version table."""
        if not self._skips:
            run(**arguments)

    def _refuse_another_table(self, options: dict[str, Any]) -> None:
        for name in ("version_table", "version_table_schema"):
            if options.get(name) not in {None, self._options[name]}:
                raise ConfigurationError(
                    f"env.py changed the {name}: it is {options[name]!r} under the lock and was "
                    f"{self._options[name]!r} before it. Nothing was migrated. To fix: let env.py name the same one "
                    "each time"
                )
