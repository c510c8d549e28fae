"""Backfill request_sha256 of the transactions that are older than the column.

Instances of the previous release go on inserting rows without it while and after this runs; until the next release
fills those too, this one reads the old column where the new one is empty.

The downgrade fills the old column, for the rows that the next release wrote.

Revision ID: df20da5ce722
Revises: 297af072d62a
Create Date: 2026-04-24 08:22:50+00:00
"""

from __future__ import annotations

from api.migrations.backfill import backfill

revision: str = "df20da5ce722"
down_revision: str | None = "297af072d62a"
branch_labels: str | None = None
depends_on: str | None = None

phase = "expand"
idempotent = True


def upgrade() -> None:
    backfill("transactions", key="id", set={"request_sha256": "request_digest"}, where="request_sha256 = ''")


def downgrade() -> None:
    backfill("transactions", key="id", set={"request_digest": "request_sha256"}, where="request_digest = ''")
