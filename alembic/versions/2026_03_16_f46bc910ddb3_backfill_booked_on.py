"""Backfill booked_on of the transactions that are older than the column.

In batches along the primary key, so that each statement is short enough for any statement timeout and reads every
row once. One transaction holds them all, and with it the locks of the rows done so far; nobody waits for those,
because the ledger never updates a transaction.

Revision ID: f46bc910ddb3
Revises: 5e0e7952ee90
Create Date: 2026-03-16 15:58:20+00:00
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision: str = "f46bc910ddb3"
down_revision: str | None = "5e0e7952ee90"
branch_labels: str | None = None
depends_on: str | None = None

BATCH_ROWS = 5_000

LAST_OF_BATCH = sa.text(
    "SELECT max(id) FROM"
    " (SELECT id FROM transactions WHERE id > :after AND booked_on IS NULL ORDER BY id LIMIT :batch_rows) AS batch"
)


def upgrade() -> None:
    fill = f"UPDATE transactions SET booked_on = {_day_in_utc()} WHERE booked_on IS NULL"  # noqa: S608 - no input in it
    if op.get_context().as_sql:
        # a script cannot ask where a batch ends
        op.execute(fill)
        return
    fill_batch = sa.text(f"{fill} AND id > :after AND id <= :last")
    connection = op.get_bind()
    after = 0
    while last := connection.scalar(LAST_OF_BATCH, {"after": after, "batch_rows": BATCH_ROWS}):
        connection.execute(fill_batch, {"after": after, "last": last})
        after = last


def downgrade() -> None:
    """Nothing: the values are true of the older schema too, and the revision below drops the column."""


def _day_in_utc() -> str:
    # the other databases store UTC without a zone; here a plain cast would use the session's zone
    return (
        "(created_at AT TIME ZONE 'UTC')::date" if op.get_context().dialect.name == "postgresql" else "date(created_at)"
    )
