"""Create accounts.

UNIQUE (id, currency) looks redundant beside the primary key. It is what a posting's foreign key will point at, and
now that the table is new and empty it costs nothing; added later it would lock the table while its index is built.

Revision ID: 5d521e5c6f0e
Revises:
Create Date: 2026-01-12 09:14:03+00:00
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision: str = "5d521e5c6f0e"
down_revision: str | None = None
branch_labels: str | None = None
depends_on: str | None = None

ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "accounts",
        sa.Column("id", ROW_ID, sa.Identity(), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("currency", sa.String(3), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_accounts")),
        sa.UniqueConstraint("id", "currency", name=op.f("uq_accounts_id_currency")),
    )


def downgrade() -> None:
    op.drop_table("accounts")
