"""Add request_sha256, the new name of request_digest, to transactions.

A rename would fail every statement of the release that knows only the old name, so it takes two releases. Here the
new column appears beside the old one. Both have the default '', which means "look at the other column": the previous
release writes only the old one, this release both, the next one only the new one. A constant default does not rewrite
the table.

Revision ID: 297af072d62a
Revises: d495386f84a0
Create Date: 2026-04-23 08:05:29+00:00
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision: str = "297af072d62a"
down_revision: str | None = "d495386f84a0"
branch_labels: str | None = None
depends_on: str | None = None

phase = "expand"

TEXT = sa.String(64)


def upgrade() -> None:
    op.add_column("transactions", sa.Column("request_sha256", TEXT, server_default="", nullable=False))
    with op.batch_alter_table("transactions") as batch:
        batch.alter_column("request_digest", existing_type=TEXT, existing_nullable=False, server_default="")


def downgrade() -> None:
    with op.batch_alter_table("transactions") as batch:
        batch.alter_column("request_digest", existing_type=TEXT, existing_nullable=False, server_default=None)
    op.drop_column("transactions", "request_sha256")
