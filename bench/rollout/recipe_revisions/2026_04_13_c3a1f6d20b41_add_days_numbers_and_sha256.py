"""Add the columns of release 2 in the obvious way: add, fill with one UPDATE, require, index.

The tables are in the order in which the service locks them: in another order this deadlocks with its requests.

Revision ID: c3a1f6d20b41
Revises: 097ced08409f
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision: str = "c3a1f6d20b41"
down_revision: str | None = "097ced08409f"
branch_labels: str | None = None
depends_on: str | None = None

TODAY = sa.text("CURRENT_DATE")
DAYS = "UPDATE postings SET booked_on = transactions.booked_on FROM transactions WHERE transactions.id = transaction_id"


def upgrade() -> None:
    """Lock everything until the end of the one transaction."""
    op.add_column("accounts", sa.Column("number", sa.String(34), nullable=True))
    op.create_index("ix_accounts_number", "accounts", ["number"], unique=True)

    op.add_column("transactions", sa.Column("request_sha256", sa.String(64), server_default="", nullable=False))
    op.execute("UPDATE transactions SET request_sha256 = request_digest")
    op.alter_column("transactions", "request_digest", server_default="")

    op.add_column("postings", sa.Column("booked_on", sa.Date(), server_default=TODAY))
    op.execute(DAYS)
    op.alter_column("postings", "booked_on", nullable=False)
    op.create_index("ix_postings_account_id_booked_on_amount", "postings", ["account_id", "booked_on", "amount"])


def downgrade() -> None:
    """Lock everything too, in the same order."""
    op.drop_column("accounts", "number")

    op.execute("UPDATE transactions SET request_digest = request_sha256 WHERE request_digest = ''")
    op.alter_column("transactions", "request_digest", server_default=None)
    op.drop_column("transactions", "request_sha256")

    op.drop_column("postings", "booked_on")
