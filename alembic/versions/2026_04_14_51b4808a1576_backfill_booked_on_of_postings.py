"""Backfill booked_on of the postings that are older than the column, from their transactions.

In batches along the primary key, each in a transaction of its own: postings is the largest table, and one transaction
for all of it would keep every old row version, and on MySQL every row's lock, until its end.

Revision ID: 51b4808a1576
Revises: 8a539c2d662e
Create Date: 2026-04-14 09:02:10+00:00
"""

from __future__ import annotations

from api.migrations.backfill import backfill

revision: str = "51b4808a1576"
down_revision: str | None = "8a539c2d662e"
branch_labels: str | None = None
depends_on: str | None = None

phase = "expand"
# an interrupted run has committed some batches; the next one fills only what is still NULL
idempotent = True

DAY = "(SELECT t.booked_on FROM transactions AS t WHERE t.id = transaction_id)"


def upgrade() -> None:
    backfill("postings", key=("transaction_id", "position"), set={"booked_on": DAY}, where="booked_on IS NULL")


def downgrade() -> None:
    """Nothing: the values are true of the older schema too, and the revision below drops the column."""
