"""Add an optional, unique number to accounts.

Revision ID: a2b2c2d2e2f2
Revises: a1b1c1d1e1f1
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision: str = "a2b2c2d2e2f2"
down_revision: str | None = "a1b1c1d1e1f1"
branch_labels: str | None = None
depends_on: str | None = None

INDEX = "ix_accounts_number"


def upgrade() -> None:
    op.add_column("accounts", sa.Column("number", sa.String(34), nullable=True))
    op.create_index(INDEX, "accounts", ["number"], unique=True)


def downgrade() -> None:
    op.drop_index(INDEX, "accounts")
    op.drop_column("accounts", "number")
