"""Validate that every posting has its booked_on.

VALIDATE reads the table under a lock that lets readers and writers through; in the transaction that added the check
it would hold that one's exclusive lock to the end.

Revision ID: 213a8b2e96b6
Revises: 779a82de0f2a
Create Date: 2026-04-16 09:41:03+00:00
"""

from __future__ import annotations

from alembic import op

revision: str = "213a8b2e96b6"
down_revision: str | None = "779a82de0f2a"
branch_labels: str | None = None
depends_on: str | None = None

phase = "expand"

CHECK = "ck_postings_booked_on_present"


def upgrade() -> None:
    if op.get_context().dialect.name == "postgresql":
        op.execute(f"ALTER TABLE postings VALIDATE CONSTRAINT {CHECK}")


def downgrade() -> None:
    # PostgreSQL cannot forget a validation: the constraint is made anew, and NOT VALID makes that quick
    if op.get_context().dialect.name == "postgresql":
        op.drop_constraint(op.f(CHECK), "postings", type_="check")
        op.create_check_constraint(op.f(CHECK), "postings", "booked_on IS NOT NULL", postgresql_not_valid=True)
