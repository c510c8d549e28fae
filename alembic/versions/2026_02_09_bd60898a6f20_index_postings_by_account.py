"""Index postings by account, for balances.

By now the table is big and written to: CONCURRENTLY lets writers go on. It cannot run in a transaction, so it is
alone in its revision; whatever stood before it would be committed without the version row. The amount is in the
index so that SUM(amount) of an account never reads the table.

MySQL builds an index beside writers without being asked, and SQLite has one writer only: there it is an ordinary
revision, so that SQLite keeps it in its transaction.

Revision ID: bd60898a6f20
Revises: bffaaced7e40
Create Date: 2026-02-09 08:02:37+00:00
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision: str = "bd60898a6f20"
down_revision: str | None = "bffaaced7e40"
branch_labels: str | None = None
depends_on: str | None = None

# An interrupted run leaves an INVALID index behind and no version row. This revision may be run again as it stands,
# because it drops such a remnant first; IF NOT EXISTS on the CREATE would keep the broken index and call it done.
idempotent = True

INDEX = "ix_postings_account_id_amount"


def upgrade() -> None:
    if op.get_context().dialect.name == "postgresql":
        with op.get_context().autocommit_block():
            op.drop_index(INDEX, "postings", postgresql_concurrently=True, if_exists=True)
            op.create_index(INDEX, "postings", ["account_id", "amount"], postgresql_concurrently=True)
    else:
        _drop_remnant()
        op.create_index(INDEX, "postings", ["account_id", "amount"])


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
