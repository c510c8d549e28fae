"""Add an optional number to accounts.

Nullable and without a default, which changes only the catalogue. The unique index follows in a revision of its own,
because it is built concurrently. On MySQL the column compares byte by byte, like the currency.

Revision ID: 513bef8ad2b5
Revises: e9fb9f38badb
Create Date: 2026-04-21 09:30:18+00:00
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision: str = "513bef8ad2b5"
down_revision: str | None = "e9fb9f38badb"
branch_labels: str | None = None
depends_on: str | None = None

phase = "expand"

NUMBER = sa.String(34).with_variant(mysql.VARCHAR(34, charset="ascii", collation="ascii_bin"), "mysql", "mariadb")


def upgrade() -> None:
    op.add_column("accounts", sa.Column("number", NUMBER, nullable=True))


def downgrade() -> None:
    op.drop_column("accounts", "number")
