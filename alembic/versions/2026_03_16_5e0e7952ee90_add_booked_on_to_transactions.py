"""Add booked_on, the day a transaction counts for, to transactions.

The column comes without a default, so that no existing row is touched, and gets one right after: instances of the
previous release, which do not know the column, go on inserting and leave no new NULL behind for the backfill.

Revision ID: 5e0e7952ee90
Revises: bd60898a6f20
Create Date: 2026-03-16 10:27:45+00:00
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision: str = "5e0e7952ee90"
down_revision: str | None = "bd60898a6f20"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    op.add_column("transactions", sa.Column("booked_on", sa.Date(), nullable=True))
    # a batch is an ordinary ALTER TABLE everywhere but on SQLite, which can only add a default by copying the table
    with op.batch_alter_table("transactions") as batch:
        batch.alter_column("booked_on", existing_type=sa.Date(), server_default=sa.text("(CURRENT_DATE)"))


def downgrade() -> None:
    op.drop_column("transactions", "booked_on")
