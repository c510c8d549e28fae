"""Make booked_on of postings NOT NULL.

The previous release runs on, because the column has a default. PostgreSQL takes the validated check as the proof and
does not read the table again; the check is dropped after, never before, the column is NOT NULL.

Revision ID: 6112e25238d9
Revises: 213a8b2e96b6
Create Date: 2026-04-17 10:15:37+00:00
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision: str = "6112e25238d9"
down_revision: str | None = "213a8b2e96b6"
branch_labels: str | None = None
depends_on: str | None = None

phase = "expand"

CHECK = "ck_postings_booked_on_present"
DEFAULT = sa.text("(CURRENT_DATE)")


def upgrade() -> None:
    with op.batch_alter_table("postings") as batch:
        batch.alter_column("booked_on", existing_type=sa.Date(), existing_server_default=DEFAULT, nullable=False)
    if op.get_context().dialect.name == "postgresql":
        op.drop_constraint(op.f(CHECK), "postings", type_="check")


def downgrade() -> None:
    if op.get_context().dialect.name == "postgresql":
        # reads the table once, in exchange for a check that is valid as the revision below left it
        op.create_check_constraint(op.f(CHECK), "postings", "booked_on IS NOT NULL")
    with op.batch_alter_table("postings") as batch:
        batch.alter_column("booked_on", existing_type=sa.Date(), existing_server_default=DEFAULT, nullable=True)
