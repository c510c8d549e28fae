"""Validate that every transaction has its booked_on.

VALIDATE reads the table under a lock that lets readers and writers through. It is a revision of its own because in
one transaction with ADD CONSTRAINT it would hold that one's exclusive lock to the end.

Revision ID: c1e581bee4c1
Revises: 6cf7366f0127
Create Date: 2026-03-17 09:36:54+00:00
"""

from __future__ import annotations

from alembic import op

revision: str = "c1e581bee4c1"
down_revision: str | None = "6cf7366f0127"
branch_labels: str | None = None
depends_on: str | None = None

CHECK = "ck_transactions_booked_on_present"


def upgrade() -> None:
    if op.get_context().dialect.name == "postgresql":
        op.execute(f"ALTER TABLE transactions VALIDATE CONSTRAINT {CHECK}")


def downgrade() -> None:
    # PostgreSQL cannot forget a validation: the constraint is made anew, and NOT VALID makes that quick
    if op.get_context().dialect.name == "postgresql":
        op.drop_constraint(op.f(CHECK), "transactions", type_="check")
        op.create_check_constraint(op.f(CHECK), "transactions", "booked_on IS NOT NULL", postgresql_not_valid=True)
