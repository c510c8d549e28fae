"""Add booked_on to postings, so that one index can answer what an account's balance was at the end of a day.

Expand: the previous release runs on. It inserts postings without a day, and the default gives them today's, which is
wrong if their transaction counts for another day. So this release writes the column but does not read it yet; the
next one corrects those rows when no instance of the previous release is left, and reads it.

The column comes without a default, so that no existing row is touched, and gets one right after.

Revision ID: 8a539c2d662e
Revises: 097ced08409f
Create Date: 2026-04-13 08:31:22+00:00
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision: str = "8a539c2d662e"
down_revision: str | None = "097ced08409f"
branch_labels: str | None = None
depends_on: str | None = None

phase = "expand"


def upgrade() -> None:
    op.add_column("postings", sa.Column("booked_on", sa.Date(), nullable=True))
    with op.batch_alter_table("postings") as batch:
        batch.alter_column("booked_on", existing_type=sa.Date(), server_default=sa.text("(CURRENT_DATE)"))


def downgrade() -> None:
    op.drop_column("postings", "booked_on")
