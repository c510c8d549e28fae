"""Index postings by account and day, for the balance at the end of a day.

The index on (account_id, amount) stays until the contract: the queries of the previous release use it, and this one
serves them too, so a later release drops it.

Alone in its revision, because CONCURRENTLY cannot run in a transaction.

Revision ID: e9fb9f38badb
Revises: 6112e25238d9
Create Date: 2026-04-20 08:12:55+00:00
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision: str = "e9fb9f38badb"
down_revision: str | None = "6112e25238d9"
branch_labels: str | None = None
depends_on: str | None = None

phase = "expand"
# an interrupted run leaves an INVALID index; this revision drops such a remnant first
idempotent = True

INDEX = "ix_postings_account_id_booked_on_amount"
COLUMNS = ["account_id", "booked_on", "amount"]


def upgrade() -> None:
    if op.get_context().dialect.name == "postgresql":
        with op.get_context().autocommit_block():
            op.drop_index(INDEX, "postings", postgresql_concurrently=True, if_exists=True)
            op.create_index(INDEX, "postings", COLUMNS, postgresql_concurrently=True)
    else:
        _drop_remnant()
        op.create_index(INDEX, "postings", COLUMNS)


def downgrade() -> None:
    if op.get_context().dialect.name == "postgresql":
        with op.get_context().autocommit_block():
            op.drop_index(INDEX, "postings", postgresql_concurrently=True, if_exists=True)
    else:
        _drop_remnant()


def _drop_remnant() -> None:
    # MySQL commits the index by itself, so the version row may be missing; and it knows no DROP INDEX IF EXISTS
    indexes = sa.inspect(op.get_bind()).get_indexes("postings")
    if INDEX in {index["name"] for index in indexes}:
        op.drop_index(INDEX, "postings")
