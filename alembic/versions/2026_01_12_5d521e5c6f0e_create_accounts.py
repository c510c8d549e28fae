"""Create accounts.

UNIQUE (id, currency) looks redundant beside the primary key. It is what a posting's foreign key will point at, and
now that the table is new and empty it costs nothing; added later it would lock the table while its index is built.

MySQL is told what it would do otherwise: compare currencies without case, cut moments to seconds, and take the
session's clock for UTC.

Revision ID: 5d521e5c6f0e
Revises:
Create Date: 2026-01-12 09:14:03+00:00
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision: str = "5d521e5c6f0e"
down_revision: str | None = None
branch_labels: str | None = None
depends_on: str | None = None

ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
CURRENCY = sa.String(3).with_variant(mysql.VARCHAR(3, charset="ascii", collation="ascii_bin"), "mysql", "mariadb")
MOMENT = sa.DateTime(timezone=True).with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")


def upgrade() -> None:
    op.create_table(
        "accounts",
        sa.Column("id", ROW_ID, sa.Identity(), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("currency", CURRENCY, nullable=False),
        sa.Column("created_at", MOMENT, server_default=_now(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_accounts")),
        sa.UniqueConstraint("id", "currency", name=op.f("uq_accounts_id_currency")),
        mysql_engine="InnoDB",
        mysql_charset="utf8mb4",
    )


def downgrade() -> None:
    op.drop_table("accounts")


def _now() -> sa.ColumnElement[Any] | sa.TextClause:
    on_mysql = op.get_context().dialect.name in ("mysql", "mariadb")
    return sa.text("(UTC_TIMESTAMP(6))") if on_mysql else sa.func.now()
