"""The function that `alembic/env.py` calls, so that each command that changes the schema acquires the lock.

    from api.ledger.models import Base
    from api.migrations.environment import run_env

    run_env(Base.metadata)

At start-up and under `migrate.sh` it runs on the given connection. If a person types `alembic upgrade`, `downgrade` or
`stamp`, it acquires the same lock and writes the same history. Commands that only read acquire no lock.
With the plugin (`fleet = true`, see `alembic_fleet_plugin.py`) these commands do the same and `env.py` stays untouched.
"""

from __future__ import annotations

import logging
import sys
from asyncio import CancelledError
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from signal import SIGINT
from typing import Any, NoReturn

import asyncpg
import sqlalchemy as sa
from alembic import context
from alembic.runtime.environment import EnvironmentContext
from alembic.util import CommandError, to_tuple
from sqlalchemy.exc import DBAPIError

from .assembly import Assembly
from .core.protocols import Kind, MigrationRequest
from .core.schema import explain
from .databases.sql_store import shape
from .errors import Cancelled, MigrationError, SchemaRefused
from .execution.env_options import VersionTable, agreed, merged, named
from .execution.env_script import GIVEN
from .execution.error_translation import translate
from .execution.revisions import Revisions
from .execution.steps import Steps
from .execution.table_shape import refuse_history, refuse_version
from .inspection import read_schema, read_session
from .logs import PlainFormatter, bind_log_context, to_json
from .parts import new_tracker
from .runtime.signals import Signals
from .runtime.streams import occupy
from .settings import MigrationSettings
from .settings.unread import warn_of_unread_settings
from .text.printable import printable

log = logging.getLogger(__name__)

_KINDS: dict[str, Kind] = {"upgrade": "upgrade", "downgrade": "downgrade", "do_stamp": "stamp"}


def run_env(target_metadata: sa.MetaData | None = None, **options: Any) -> None:
    """Configure Alembic and run the command.

    Args:
        target_metadata: the models' metadata, for `alembic check` and autogenerate.
        options: further arguments of `context.configure`. A version table named here is used everywhere; filters and
            hooks are called in addition to the package's own.
    """
    if GIVEN in context.config.attributes and not context.is_offline_mode():
        settings, _, options = _composed(target_metadata, options)
        _run(context.config.attributes[GIVEN], options)
        return
    with _failing_in_one_line() as stop:
        settings, table, options = _composed(target_metadata, options)
        if context.is_offline_mode():
            _offline(settings, table, options)
        else:
            _by_hand(settings.for_version_table(table.name, table.schema), options, stop)


def run_command(environment: EnvironmentContext, kind: Kind) -> None:
    """Run the typed command under the lock; the plugin calls this instead of executing an `env.py` left untouched."""
    with _failing_in_one_line() as stop:
        settings = MigrationSettings.load()
        url = environment.config.get_alembic_option("sqlalchemy.url") or ""
        if not settings.has_url and url.startswith("postgresql"):
            settings = MigrationSettings.load(database_url=url)
        _prepare(settings)
        asked = environment.context_opts
        target = ", ".join(to_tuple(asked["destination_rev"]))
        request = MigrationRequest(kind, target, purge=asked.get("purge", False), tag=asked.get("tag"))
        assembly = Assembly.build(settings, revisions=Revisions(environment.config, settings.target))
        stop.run(partial(_execute, assembly, request))


async def _execute(assembly: Assembly, request: MigrationRequest) -> None:
    assembly = await assembly.inspect(create_file=True)
    bind_log_context(assembly.tracker)
    await assembly.operator_coordinator().execute(request)


def _composed(
    target_metadata: sa.MetaData | None, options: dict[str, Any]
) -> tuple[MigrationSettings, VersionTable, dict[str, Any]]:
    settings = MigrationSettings.load()
    default = VersionTable(settings.version_table, settings.version_table_schema)
    table = agreed(named(options, default, None), options, settings.about_the_version_table)
    composed = {
        "target_metadata": target_metadata,
        # SQLite can change a column only by copying its table
        "render_as_batch": _dialect(settings) == "sqlite",
        **options,
        "include_name": _hide(settings.history_of(table.name), options.get("include_name")),
    }
    return settings, table, composed


def _offline(settings: MigrationSettings, table: VersionTable, options: dict[str, Any]) -> None:
    ours = {"version_table": table.name, "version_table_schema": table.schema, "transaction_per_migration": True}
    given = merged({"dialect_name": _dialect(settings), "literal_binds": True, **options}, ours)
    context.configure(**given)
    with context.begin_transaction():
        context.run_migrations()


def _run(connection: sa.Connection, options: dict[str, Any]) -> None:
    context.configure(connection=connection, **options)
    with context.begin_transaction():
        context.run_migrations()


def _by_hand(settings: MigrationSettings, options: dict[str, Any], stop: Signals) -> None:
    # configured without a connection, Alembic only says which command runs
    context.configure(dialect_name=_dialect(settings))
    # a copy, because each attempt configures again and Alembic changes its own
    theirs = context.get_context().opts
    asked = dict(theirs)
    _prepare(settings)
    changes = "destination_rev" in asked
    # `alembic revision` makes the first revision of a project
    assembly = Assembly.build(settings, may_be_empty=not changes)
    assembly.revisions.directory.version_locations = list(context.script.version_locations)
    assembly = Assembly.build(settings, revisions=assembly.revisions.as_env_leaves_them())
    if not changes:
        stop.run(partial(_read, assembly, asked, options))
        return  # Alembic renders what it has compared with the options of this call
    stop.run(partial(_under_lock, assembly, asked, options))
    theirs.clear()
    theirs.update(asked)  # for the next call, in a loop over schemas


def _prepare(settings: MigrationSettings) -> None:
    occupy()
    handler = logging.StreamHandler()
    handler.setFormatter(PlainFormatter("%(levelname)-7s %(message)s"))
    logging.basicConfig(level=(settings.log_level or "info").upper(), handlers=[handler])
    if settings.log_format == "json":
        to_json(new_tracker(settings))
    warn_of_unread_settings()


@contextmanager
def _failing_in_one_line() -> Iterator[Signals]:
    # without a traceback through Alembic's command line
    stop = Signals()
    try:
        yield stop
    except MigrationError as error:
        _end(error, stop.received)
    except KeyboardInterrupt:  # before the run, which has its own handler
        _end(Cancelled("stopped by SIGINT; nothing was changed"), SIGINT)
    except (Exception, CancelledError):
        if not stop.received:
            raise
        _end(Cancelled.by_signal(stop.received), stop.received)


def _end(error: MigrationError, signal: int) -> NoReturn:
    log_settings = MigrationSettings.load_partial("log_format", "instance", "release")
    line = printable(f"{type(error).__name__}: {error}")
    if log_settings.log_format == "json":
        to_json(new_tracker(log_settings))
        log.error("%s", error, extra={"event": "failed", "error": type(error).__name__})
    elif not signal:
        raise SystemExit(line) from None
    else:
        sys.stderr.write(f"{line}\n")
    raise SystemExit(128 + signal if signal else 1) from None


async def _under_lock(assembly: Assembly, asked: dict[str, Any], options: dict[str, Any]) -> None:
    runner = assembly.runner

    def run_env(connection: sa.Connection, request: MigrationRequest, steps: Steps) -> None:
        _run(connection, merged(options, runner.options(steps)) | {"fn": runner.surround(asked["fn"], steps)})

    bind_log_context(assembly.tracker)
    request = MigrationRequest(_KINDS.get(asked["fn"].__name__, "upgrade"), str(asked["destination_rev"]))
    # this call of `run_env` has named its version table
    assembly = replace(assembly, runner=runner.through(run_env), inspected=True)
    await assembly.operator_coordinator().execute(request)


async def _read(assembly: Assembly, asked: dict[str, Any], options: dict[str, Any]) -> None:
    settings = assembly.settings
    # autogenerate compares the models with a new, empty database
    create_file = asked["fn"].__name__ == "retrieve_migrations"
    version = {"version_table": settings.version_table, "version_table_schema": settings.version_table_schema}
    try:
        async with assembly.database.sql_connection(create_file=create_file) as connection:
            await connection.run_sync(_refuse_other_tables, assembly.runner.tables)
            await connection.run_sync(_run, merged(options, version) | {"dont_mutate": True})
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, DBAPIError) as error:
        raise translate(error, assembly.database.url.connecting) from error
    except CommandError as error:
        # Alembic's message, "Can't locate revision", does not say which release to deploy
        schema = await read_session(assembly, partial(read_schema, assembly))
        if schema.unknown:
            raise SchemaRefused(explain(schema)) from error
        raise


def _refuse_other_tables(connection: sa.Connection, tables: tuple[sa.Table, sa.Table]) -> None:
    version, history = tables
    refuse_version(version.fullname, shape(connection, version), rows_are_revisions=True)
    refuse_history(history.fullname, shape(connection, history))
    connection.rollback()


def _dialect(settings: MigrationSettings) -> str:
    # `--sql` needs no database
    return settings.url().dialect if settings.has_url else "postgresql"


def _hide(history_table: str, theirs: Any) -> Any:
    # otherwise autogenerate would drop the history table
    def include_name(name: str | None, kind: str, parents: Any) -> bool:
        return not (kind == "table" and name == history_table) and (theirs is None or theirs(name, kind, parents))

    return include_name
