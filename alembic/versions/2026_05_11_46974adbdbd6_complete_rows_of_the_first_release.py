"""Complete the rows that instances of the first release wrote after the two backfills.

They have no request_sha256, and their postings may have another day than their transaction, because the first release
let the default fill it. Contract: it runs only when no such instance is left, so afterwards there are no such rows,
and the release that brings this revision reads both columns without a second look.

The downgrade fills request_digest, which the revision above gave back empty.

Revision ID: 46974adbdbd6
Revises: df20da5ce722
Create Date: 2026-05-11 08:40:16+00:00
"""

from __future__ import annotations

from api.migrations.backfill import backfill

revision: str = "46974adbdbd6"
down_revision: str | None = "df20da5ce722"
branch_labels: str | None = None
depends_on: str | None = None

phase = "contract"
requires = "df20da5ce722"
idempotent = True

DAY = "(SELECT t.booked_on FROM transactions AS t WHERE t.id = transaction_id)"


def upgrade() -> None:
    backfill("transactions", key="id", set={"request_sha256": "request_digest"}, where="request_sha256 = ''")
    backfill("postings", key=("transaction_id", "position"), set={"booked_on": DAY}, where=f"booked_on <> {DAY}")


def downgrade() -> None:
    backfill("transactions", key="id", set={"request_digest": "request_sha256"}, where="request_digest = ''")
