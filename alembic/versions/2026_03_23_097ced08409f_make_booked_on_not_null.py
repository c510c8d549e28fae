"""Make booked_on NOT NULL.

PostgreSQL takes the validated check as the proof and does not read the table again, so the exclusive lock is brief.
The check has then done its work; it is dropped after, never before, the column is NOT NULL.

Revision ID: 097ced08409f
Revises: c1e581bee4c1
Create Date: 2026-03-23 11:05:32+00:00
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision: str = "097ced08409f"
down_revision: str | None = "c1e581bee4c1"
branch_labels: str | None = None
depends_on: str | None = None

CHECK = "ck_transactions_booked_on_present"
DEFAULT = sa.text("(CURRENT_DATE)")


def upgrade() -> None:
    with op.batch_alter_table("transactions") as batch:
        batch.alter_column("booked_on", existing_type=sa.Date(), existing_server_default=DEFAULT, nullable=False)
    if op.get_context().dialect.name == "postgresql":
        op.drop_constraint(op.f(CHECK), "transactions", type_="check")


def downgrade() -> None:
    if op.get_context().dialect.name == "postgresql":
        # reads the table once, in exchange for a check that is valid as the revision below left it
        op.create_check_constraint(op.f(CHECK), "transactions", "booked_on IS NOT NULL")
    with op.batch_alter_table("transactions") as batch:
        batch.alter_column("booked_on", existing_type=sa.Date(), existing_server_default=DEFAULT, nullable=True)
