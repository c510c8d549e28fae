"""Fills a column of a large table in small batches, while other sessions read and write the table.

    from api.migrations.backfill import backfill

    idempotent = True

    def upgrade() -> None:
        backfill("postings", key="id", set={"booked_on": "date(created_at)"}, where="booked_on IS NULL")

Each batch is one UPDATE along the key in a transaction of its own, on the session that holds the lock. An interrupted
revision is run again and continues, because rows that `where` no longer selects are skipped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext

from alembic import op

from .core.batches import BatchSize
from .errors import COMMAND
from .execution.batch_run import Batches, CommittedBatches, committing, repeatable_attempt
from .execution.batch_statements import BatchStatements
from .execution.dialects import commits_batches
from .execution.steps import STEPS


def backfill(
    table: str,
    *,
    key: str | Sequence[str],
    set: Mapping[str, str],
    where: str,
    batch_rows: int = 5_000,
    schema: str | None = None,
) -> int:
    """Fill the rows of a table that `where` selects, in batches, and return how many were filled.

    On PostgreSQL and MySQL each batch is committed, and what the revision did before the call is committed first; the
    revision must declare `idempotent = True`. On SQLite, and in commands that are not this package's, everything is in
    the revision's transaction. With `--sql` it is one UPDATE.

    Args:
        table: its name; names are quoted where the database needs it.
        key: the column, or columns in order, of the primary key or another unique index.
        set: an SQL expression for each column.
        where: an SQL condition that no longer selects a row once it is filled.
        batch_rows: the most rows of one batch. Batches are smaller as long as one takes more than half a second.
        schema: the table's schema; by default it is found by the search path.

    Raises:
        ValueError: an argument is empty, or the key is not unique. Of an unknown column the database says so.
        InvalidRequestError: the batches would be committed, but the revision does not declare `idempotent = True`.
        DirectConnectionNeeded: the connection goes through a transaction pooler, where no batch can be committed.
    """
    columns = (key,) if isinstance(key, str) else tuple(key)
    statements = BatchStatements(table, schema, columns, set, where)
    if batch_rows < 1:
        raise ValueError(f"backfill(): batch_rows is {batch_rows}. To fix: pass at least 1")
    context = op.get_context()
    if context.as_sql:
        with context.autocommit_block() if commits_batches(context.dialect) else nullcontext():
            op.execute(statements.everything(f"'{COMMAND} upgrade' runs this in batches of at most {batch_rows} rows"))
        return 0
    connection = op.get_bind()
    steps = context.opts.get(STEPS) if commits_batches(connection.dialect) else None
    # on an empty table too, so that a test of the revision finds it
    attempt = None if steps is None else repeatable_attempt(steps)
    if statements.is_empty(connection):
        return 0
    statements.check(connection)
    if steps is None or attempt is None:
        return Batches(connection, statements, BatchSize.first(batch_rows)).run()
    with committing(context, steps, attempt):
        return CommittedBatches(connection, statements, batch_rows, steps, attempt).run()
