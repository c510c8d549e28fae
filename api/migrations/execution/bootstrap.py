"""Makes an empty database from the models: one step creates their tables and stands for all revisions.

`Steps` surrounds it as it does a revision, so the tables, the heads and the history are committed together.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import sqlalchemy as sa
from alembic.runtime.migration import MigrationContext, RevisionStep
from alembic.util import to_list

from ..errors import ConfigurationError
from .error_translation import sqlstate
from .revisions import Revisions
from .steps import AlembicStep, StepPlan

CREATING = "creating the tables of the models (MIGRATION_BOOTSTRAP=create_all)"
_EXISTS = "42710"
"""PostgreSQL's SQLSTATE for a type that exists, for which the remedies are about revisions."""


def models(target_metadata: Any) -> list[sa.MetaData]:
    """Return the metadata that `env.py` passes to `context.configure`: one, several or none.

    Raises `ConfigurationError` if they contain no table.
    """
    found: list[sa.MetaData] = [metadata for metadata in to_list(target_metadata, []) if metadata.tables]
    if not found:
        raise ConfigurationError(
            "MIGRATION_BOOTSTRAP=create_all needs the models, but env.py passes no target_metadata with tables. "
            "Nothing was migrated. To fix: import all models in env.py and pass target_metadata=Base.metadata to "
            "context.configure (or call run_env(Base.metadata)), or unset MIGRATION_BOOTSTRAP"
        )
    return found


def advice(error: BaseException, known: str) -> str:
    """Return `. ` and the remedy for a failed creation: the `known` one if it applies."""
    if known and sqlstate(error) != _EXISTS:
        return known
    return ". To fix: correct the models, or unset MIGRATION_BOOTSTRAP, which runs the revisions"


def bootstrap_plan(revisions: Revisions, own: Collection[str]) -> StepPlan:
    """Return the plan of one step to the heads; the models may describe the package's `own` tables too."""
    directory = revisions.directory
    head, *others = sorted(revisions.code.heads)

    def plan(heads: Any, context: MigrationContext | None) -> list[AlembicStep]:
        if heads:  # the step is committed, and the run is retried for what follows it
            return []

        def create_all(**_: Any) -> None:
            assert context is not None
            _create(context, own, others)

        step = RevisionStep(directory.revision_map, directory.get_revision(head), is_upgrade=True)
        step.migration_fn = create_all
        return [step]

    return plan


def _create(context: MigrationContext, own: Collection[str], other_heads: Collection[str]) -> None:
    connection = context.connection
    assert connection is not None
    for metadata in models(context.opts.get("target_metadata")):
        tables = [table for table in metadata.tables.values() if table.fullname not in own]
        # not checkfirst: it would skip a table that exists in another schema of the search path
        metadata.create_all(connection, tables, checkfirst=False)
    for head in other_heads:  # Alembic inserts the step's own
        connection.execute(context._version.insert().values(version_num=head))
