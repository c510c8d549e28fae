"""Add the day to postings and index it, in the obvious way: add, fill, require, index.

Revision ID: c3a1f6d20b43
Revises: c3a1f6d20b42
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision: str = "c3a1f6d20b43"
down_revision: str | None = "c3a1f6d20b42"
branch_labels: str | None = None
depends_on: str | None = None

INDEX = "ix_postings_account_id_booked_on_amount"
DEFAULT = sa.text("CURRENT_DATE")


def upgrade() -> None:
    op.add_column("postings", sa.Column("booked_on", sa.Date(), server_default=DEFAULT))
    op.execute(
        "UPDATE postings SET booked_on = transactions.booked_on FROM transactions WHERE transactions.id = transaction_id"
    )
    op.alter_column("postings", "booked_on", nullable=False)
    op.create_index(INDEX, "postings", ["account_id", "booked_on", "amount"])


def downgrade() -> None:
    op.drop_index(INDEX, "postings")
    op.drop_column("postings", "booked_on")
