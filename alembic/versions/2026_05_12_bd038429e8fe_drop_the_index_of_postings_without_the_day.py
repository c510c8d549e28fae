"""Drop the index on (account_id, amount).

The one on (account_id, booked_on, amount) answers every query that it answered, so that each insert had to maintain
one index too many. CONCURRENTLY waits for the queries that use it instead of blocking those that come after them.

Revision ID: bd038429e8fe
Revises: 46974adbdbd6
Create Date: 2026-05-12 09:11:07+00:00
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision: str = "bd038429e8fe"
down_revision: str | None = "46974adbdbd6"
branch_labels: str | None = None
depends_on: str | None = None

phase = "contract"
requires = "df20da5ce722"
idempotent = True

INDEX = "ix_postings_account_id_amount"


def upgrade() -> None:
    if op.get_context().dialect.name == "postgresql":
        with op.get_context().autocommit_block():
            op.drop_index(INDEX, "postings", postgresql_concurrently=True, if_exists=True)
    else:
        _drop_remnant()


def downgrade() -> None:
    if op.get_context().dialect.name == "postgresql":
        with op.get_context().autocommit_block():
            op.drop_index(INDEX, "postings", postgresql_concurrently=True, if_exists=True)
            op.create_index(INDEX, "postings", ["account_id", "amount"], postgresql_concurrently=True)
    else:
        _drop_remnant()
        op.create_index(INDEX, "postings", ["account_id", "amount"])


def _drop_remnant() -> None:
    # MySQL commits by itself, so the version row may be missing; and it knows no DROP INDEX IF EXISTS
    indexes = sa.inspect(op.get_bind()).get_indexes("postings")
    if INDEX in {index["name"] for index in indexes}:
        op.drop_index(INDEX, "postings")
