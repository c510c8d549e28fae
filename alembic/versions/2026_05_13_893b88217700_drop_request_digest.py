"""Drop request_digest, whose values and readers have moved to request_sha256.

Contract: the previous release inserts into the old column only until it is told that the column does not exist, and
reads it only where the new one is empty, which is nowhere any more. The new column loses its default, which has done
its work: from now on a row without the value is refused.

The downgrade brings the column back empty, for the revision below to fill.

Revision ID: 893b88217700
Revises: bd038429e8fe
Create Date: 2026-05-13 08:30:54+00:00
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision: str = "893b88217700"
down_revision: str | None = "bd038429e8fe"
branch_labels: str | None = None
depends_on: str | None = None

phase = "contract"
requires = "df20da5ce722"

TEXT = sa.String(64)


def upgrade() -> None:
    with op.batch_alter_table("transactions") as batch:
        batch.drop_column("request_digest")
        batch.alter_column("request_sha256", existing_type=TEXT, existing_nullable=False, server_default=None)


def downgrade() -> None:
    op.add_column("transactions", sa.Column("request_digest", TEXT, server_default="", nullable=False))
    with op.batch_alter_table("transactions") as batch:
        batch.alter_column("request_sha256", existing_type=TEXT, existing_nullable=False, server_default="")
