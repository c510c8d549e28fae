"""Create transactions and postings.

The foreign key over (account_id, currency) makes the database refuse a posting in another currency than its
account's, and the unique key decides between concurrent requests with one Idempotency-Key. Adding the foreign key
locks accounts against writes, for a moment only because postings is empty.

On MySQL the key is bytes: all its collations that MariaDB has too take "a" and "a " for one key.

Revision ID: bffaaced7e40
Revises: 5d521e5c6f0e
Create Date: 2026-01-19 13:40:51+00:00
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision: str = "bffaaced7e40"
down_revision: str | None = "5d521e5c6f0e"
branch_labels: str | None = None
depends_on: str | None = None

ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
CURRENCY = sa.String(3).with_variant(mysql.VARCHAR(3, charset="ascii", collation="ascii_bin"), "mysql", "mariadb")
KEY = sa.String(255).with_variant(mysql.VARBINARY(255), "mysql", "mariadb")
MOMENT = sa.DateTime(timezone=True).with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")


def upgrade() -> None:
    op.create_table(
        "transactions",
        sa.Column("id", ROW_ID, sa.Identity(), nullable=False),
        sa.Column("idempotency_key", KEY, nullable=False),
        sa.Column("request_digest", sa.String(64), nullable=False),
        sa.Column("description", sa.String(500), nullable=False),
        sa.Column("created_at", MOMENT, server_default=_now(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_transactions")),
        sa.UniqueConstraint("idempotency_key", name=op.f("uq_transactions_idempotency_key")),
        mysql_engine="InnoDB",
        mysql_charset="utf8mb4",
    )
    op.create_table(
        "postings",
        sa.Column("transaction_id", ROW_ID, nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("account_id", ROW_ID, nullable=False),
        sa.Column("currency", CURRENCY, nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("transaction_id", "position", name=op.f("pk_postings")),
        sa.ForeignKeyConstraint(
            ["transaction_id"], ["transactions.id"], name=op.f("fk_postings_transaction_id_transactions")
        ),
        sa.ForeignKeyConstraint(
            ["account_id", "currency"],
            ["accounts.id", "accounts.currency"],
            name=op.f("fk_postings_account_id_currency_accounts"),
        ),
        sa.CheckConstraint("amount <> 0", name=op.f("ck_postings_amount_not_zero")),
        mysql_engine="InnoDB",
        mysql_charset="utf8mb4",
    )


def downgrade() -> None:
    op.drop_table("postings")
    op.drop_table("transactions")


def _now() -> sa.ColumnElement[Any] | sa.TextClause:
    on_mysql = op.get_context().dialect.name in ("mysql", "mariadb")
    return sa.text("(UTC_TIMESTAMP(6))") if on_mysql else sa.func.now()
