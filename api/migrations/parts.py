"""Builds the parts of an assembly from the settings."""

from __future__ import annotations

from collections.abc import Sequence

from .core.decision import Policy
from .core.status import Tracker
from .errors import ConfigurationError
from .execution.env_options import Pass
from .execution.history_table import History, RunAuthor
from .execution.hooks import Hooks
from .execution.revisions import Revisions
from .execution.runner import Runner
from .settings import MigrationSettings, Strategy


def new_tracker(settings: MigrationSettings) -> Tracker:
    """Return a tracker with the instance, release, strategy and budgets of the settings."""
    return Tracker(
        instance=settings.instance,
        release=settings.release,
        strategy=str(settings.strategy),
        wait_budget_seconds=settings.wait_seconds,
        run_budget_seconds=settings.run_seconds,
    )


def settings_of_failed_start() -> MigrationSettings:
    """Return what an instance needs to report that its settings are invalid."""
    rest = MigrationSettings.load_partial("instance", "release", "startup_mode", "on_failure")
    # by itself: another invalid setting must not open the endpoints
    token = MigrationSettings.load_partial("health_token", "health_token_file")
    return rest.model_copy(update=token.model_dump(include={"health_token", "health_token_file"}))


def revisions_of(settings: MigrationSettings, may_be_empty: bool) -> Revisions:
    """Read the revisions that the settings' Alembic configuration names; `may_be_empty` accepts none."""
    empty = may_be_empty or settings.strategy is Strategy.OFF
    return Revisions(settings.alembic_config, settings.target, section=settings.alembic_section, may_be_empty=empty)


def runner_of(
    settings: MigrationSettings,
    revisions: Revisions,
    release: str,
    only: Pass | None,
    own_connection: bool,
    hooks: Hooks,
) -> Runner:
    """Return the runner of one version table."""
    return Runner(
        revisions,
        History(settings.history, settings.version_table_schema),
        RunAuthor(settings.instance, release),
        settings.version_table,
        settings.version_table_schema,
        drop_invalid=settings.drop_invalid_indexes,
        only=only,
        own_connection=own_connection,
        baseline=settings.baseline,
        hooks=hooks,
    )


def policy_of(settings: MigrationSettings, strategy: Strategy, release: str, hooks: Hooks) -> Policy:
    """Return the settings that decide."""
    return Policy(
        wait_seconds=settings.wait_seconds,
        run_seconds=settings.run_seconds,
        poll_seconds=settings.poll_seconds,
        serve_ahead=settings.on_ahead == "serve",
        may_migrate=strategy is not Strategy.JOB,
        target=settings.target,
        release=release,
        baseline=settings.baseline,
        create_all=settings.bootstrap == "create_all",
        after=hooks.after is not None,
    )


def database_names(databases: Sequence[MigrationSettings]) -> list[str | None]:
    """Return a name for each of several databases: its `alembic_section`, or its own if two have the same section.

    Raises `ConfigurationError` if two have the same section and the same name.
    """
    if len(databases) == 1:
        return [None]
    for names in ([one.alembic_section for one in databases], [one.url().database for one in databases]):
        if len(set(names)) == len(names):
            return [f"database {name}" for name in names]
    raise ConfigurationError(
        "two of the lifespan's settings have the same alembic_section and a database of the same name, so they cannot "
        "be told apart. To fix: give each an alembic_section of its own"
    )
