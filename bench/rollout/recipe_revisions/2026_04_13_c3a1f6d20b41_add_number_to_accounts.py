"""Add an optional, unique number to accounts.

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

INDEX = "ix_accounts_number"


def upgrade() -> None:
    op.add_column("accounts", sa.Column("number", sa.String(34), nullable=True))
    op.create_index(INDEX, "accounts", ["number"], unique=True)


def downgrade() -> None:
    op.drop_index(INDEX, "accounts")
    op.drop_column("accounts", "number")
