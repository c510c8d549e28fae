"""Require booked_on of new postings.

NOT VALID, so that the exclusive lock is brief: new rows are checked from now on, the existing ones by the next
revision. Other databases than PostgreSQL wait for the last of these three revisions.

Revision ID: 779a82de0f2a
Revises: 51b4808a1576
Create Date: 2026-04-15 09:20:44+00:00
"""

from __future__ import annotations

from alembic import op

revision: str = "779a82de0f2a"
down_revision: str | None = "51b4808a1576"
branch_labels: str | None = None
depends_on: str | None = None

phase = "expand"

CHECK = "ck_postings_booked_on_present"


def upgrade() -> None:
    if op.get_context().dialect.name == "postgresql":
        op.create_check_constraint(op.f(CHECK), "postings", "booked_on IS NOT NULL", postgresql_not_valid=True)


def downgrade() -> None:
    if op.get_context().dialect.name == "postgresql":
        op.drop_constraint(op.f(CHECK), "postings", type_="check")
