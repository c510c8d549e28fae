"""`./migrate.sh revision`: writes the next revision file with Alembic's own command."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.script import Script
from alembic.util import CommandError

from ..assembly import Assembly
from ..errors import ConfigurationError
from ..execution.env_options import merged
from ..execution.env_script import GIVEN
from ..runtime.thread import start_blocking
from .commands import refuse_unless_at_head
from .results import NewRevision, Result

Options = Mapping[str, Any]


async def write_revision(assembly: Assembly, arguments: argparse.Namespace) -> Result:
    """Write a revision file, unless there is no difference; `arguments` are those of the command `revision`."""
    config = assembly.revisions.config
    if arguments.empty:
        return _result(await start_blocking(partial(_write, config, arguments.message), "revision"))
    assembly = await assembly.inspect(create_file=True)
    if assembly.revisions.code.parents:  # otherwise the database may not exist yet
        for one in assembly.each.values():
            await refuse_unless_at_head(one)
    with _configured(partial(_compared, assembly)):
        write = partial(_write, config, arguments.message, autogenerate=True)
        if assembly.runner.own_connection:
            return _result(await start_blocking(write, "revision"))
        async with assembly.database.sql_connection(create_file=True) as connection:
            return _result(await connection.run_sync(partial(_write_on, write, config)))


def _write(config: Config, message: str, *, autogenerate: bool = False) -> list[Script]:
    try:
        made = command.revision(config, message, autogenerate=autogenerate)
    except CommandError as error:
        raise ConfigurationError(f"Alembic did not finish the revision: {error}") from error
    return [script for script in (made if isinstance(made, list) else [made]) if script is not None]


def _write_on(write: Callable[[], list[Script]], config: Config, connection: sa.Connection) -> list[Script]:
    config.attributes[GIVEN] = connection
    try:
        return write()
    finally:
        del config.attributes[GIVEN]


def _result(made: list[Script]) -> Result:
    if not made:
        return NewRevision(message="no difference between the models and the database; for an empty file pass --empty")
    return NewRevision(revision=made[0].revision, path=os.path.relpath(made[0].path))


@contextmanager
def _configured(options: Callable[[Options], Options]) -> Iterator[None]:
    """Replace the options of each call of `context.configure`, which env.py makes."""
    original = EnvironmentContext.configure

    def configure(environment: EnvironmentContext, connection: Any = None, **theirs: Any) -> None:
        original(environment, connection=connection, **options(theirs))

    setattr(EnvironmentContext, "configure", configure)  # noqa: B010 - Alembic has no hook for it
    try:
        yield
    finally:
        setattr(EnvironmentContext, "configure", original)  # noqa: B010


def _compared(assembly: Assembly, theirs: Options) -> Options:
    """Return the options of env.py and those that compare the models without the package's own tables."""
    settings, histories = assembly.settings, {one.runner.tables[1].name for one in assembly.each.values()}
    is_ours, render = theirs.get("include_name"), theirs.get("render_item")
    process = theirs.get("process_revision_directives")

    def include_name(name: str | None, kind: str, parents: Any) -> bool:
        return not (kind == "table" and name in histories) and (is_ours is None or is_ours(name, kind, parents))

    def render_item(kind: str, item: Any, context: Any) -> Any:
        rendered = render(kind, item, context) if render else False
        if rendered is False and kind == "type" and not type(item).__module__.startswith("sqlalchemy"):
            context.imports.add(f"import {type(item).__module__}")
        return rendered

    def process_revision_directives(context: Any, revision: Any, directives: list[Any]) -> None:
        if process:
            process(context, revision, directives)
        # with several schemas a later one may have a difference
        if directives and not assembly.further and directives[0].upgrade_ops.is_empty():
            directives.clear()

    hooks = (include_name, render_item, process_revision_directives)
    table = {"version_table": settings.version_table, "version_table_schema": settings.version_table_schema}
    return merged(theirs, {} if assembly.further else table) | {hook.__name__: hook for hook in hooks}
