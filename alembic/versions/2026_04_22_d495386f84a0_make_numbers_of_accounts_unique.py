"""Make the numbers of accounts unique.

A unique index and no constraint: ADD UNIQUE would build the index under an exclusive lock, and CONCURRENTLY lets
writers go on. Alone in its revision, because that cannot run in a transaction. Accounts without a number do not
collide, because NULL equals nothing.

Revision ID: d495386f84a0
Revises: 513bef8ad2b5
Create Date: 2026-04-22 09:52:41+00:00
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision: str = "d495386f84a0"
down_revision: str | None = "513bef8ad2b5"
branch_labels: str | None = None
depends_on: str | None = None

phase = "expand"
# a duplicate or an interrupted run leaves an INVALID index, which PostgreSQL goes on enforcing; it is dropped first
idempotent = True

INDEX = "ix_accounts_number"


def upgrade() -> None:
    if op.get_context().dialect.name == "postgresql":
        with op.get_context().autocommit_block():
            op.drop_index(INDEX, "accounts", postgresql_concurrently=True, if_exists=True)
            op.create_index(INDEX, "accounts", ["number"], unique=True, postgresql_concurrently=True)
    else:
        _drop_remnant()
        op.create_index(INDEX, "accounts", ["number"], unique=True)


def downgrade() -> None:
    if op.get_context().dialect.name == "postgresql":
        with op.get_context().autocommit_block():
            op.drop_index(INDEX, "accounts", postgresql_concurrently=True, if_exists=True)
    else:
        _drop_remnant()


def _drop_remnant() -> None:
    # MySQL commits the index by itself, so the version row may be missing; and it knows no DROP INDEX IF EXISTS
    indexes = sa.inspect(op.get_bind()).get_indexes("accounts")
    if INDEX in {index["name"] for index in indexes}:
        op.drop_index(INDEX, "accounts")
