"""Copy request_digest into its new name, request_sha256, with one UPDATE.

Revision ID: c3a1f6d20b42
Revises: c3a1f6d20b41
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision: str = "c3a1f6d20b42"
down_revision: str | None = "c3a1f6d20b41"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    op.add_column("transactions", sa.Column("request_sha256", sa.String(64), server_default="", nullable=False))
    op.execute("UPDATE transactions SET request_sha256 = request_digest")
    op.alter_column("transactions", "request_digest", server_default="")


def downgrade() -> None:
    op.execute("UPDATE transactions SET request_digest = request_sha256 WHERE request_digest = ''")
    op.alter_column("transactions", "request_digest", server_default=None)
    op.drop_column("transactions", "request_sha256")
