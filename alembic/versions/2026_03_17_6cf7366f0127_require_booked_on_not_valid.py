"""Require booked_on of new rows.

SET NOT NULL at once would read the whole table while nobody else can. NOT VALID takes the same lock for a moment
only: new rows are checked from now on, the existing ones by the next revision. Other databases than PostgreSQL have
no such half-way state and wait for the last of these three revisions.

Revision ID: 6cf7366f0127
Revises: f46bc910ddb3
Create Date: 2026-03-17 09:11:09+00:00
"""

from __future__ import annotations

from alembic import op

revision: str = "6cf7366f0127"
down_revision: str | None = "f46bc910ddb3"
branch_labels: str | None = None
depends_on: str | None = None

CHECK = "ck_transactions_booked_on_present"


def upgrade() -> None:
    if op.get_context().dialect.name == "postgresql":
        op.create_check_constraint(op.f(CHECK), "transactions", "booked_on IS NOT NULL", postgresql_not_valid=True)


def downgrade() -> None:
    if op.get_context().dialect.name == "postgresql":
        op.drop_constraint(op.f(CHECK), "transactions", type_="check")
