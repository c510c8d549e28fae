"""The tables, which `alembic/versions` creates; `alembic check` compares both.

They are the same on PostgreSQL, MySQL, MariaDB and SQLite; `types` has the differences. Names follow one convention, so
that a migration can name each constraint.
"""

from __future__ import annotations

from datetime import date, datetime

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Date,
    ForeignKey,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    MetaData,
    String,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from .types import AccountNumber, Currency, Key, Moment, RowId, now_in_utc

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# independent of the server's defaults: foreign keys, and names in any script
ON_MYSQL = {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4"}


class Base(DeclarativeBase):
    """Base of the ledger's tables."""

    metadata = metadata


class Account(Base):
    """An account in one currency."""

    __tablename__ = "accounts"
    # target of the foreign key from a posting to its account and currency
    # a unique index and not a constraint, because only an index can be built concurrently
    __table_args__ = (UniqueConstraint("id", "currency"), Index(None, "number", unique=True), ON_MYSQL)

    id: Mapped[int] = mapped_column(RowId, Identity(), primary_key=True)
    name: Mapped[str] = mapped_column(String(200))
    currency: Mapped[str] = mapped_column(Currency)
    created_at: Mapped[datetime] = mapped_column(Moment, server_default=now_in_utc())
    number: Mapped[str | None] = mapped_column(AccountNumber)


class Transaction(Base):
    """A transaction whose postings balance, and its request. Never updated."""

    __tablename__ = "transactions"
    __table_args__ = ON_MYSQL

    id: Mapped[int] = mapped_column(RowId, Identity(), primary_key=True)
    idempotency_key: Mapped[str] = mapped_column(Key, unique=True)
    description: Mapped[str] = mapped_column(String(500))
    created_at: Mapped[datetime] = mapped_column(Moment, server_default=now_in_utc())
    # MySQL accepts an expression as default only in parentheses
    booked_on: Mapped[date] = mapped_column(Date, server_default=text("(CURRENT_DATE)"))
    request_sha256: Mapped[str] = mapped_column(String(64))

    # asyncio cannot load an attribute lazily, so queries load postings explicitly
    postings: Mapped[list[Posting]] = relationship(order_by="Posting.position", lazy="raise")


class Posting(Base):
    """One side of a transaction: `amount` in the currency's smallest unit, positive for debit; its `booked_on`."""

    __tablename__ = "postings"
    __table_args__ = (
        ForeignKeyConstraint(["account_id", "currency"], ["accounts.id", "accounts.currency"]),
        CheckConstraint("amount <> 0", name="amount_not_zero"),
        # covers SUM(amount) of an account, also up to a day, so that a balance reads only the index
        Index(None, "account_id", "booked_on", "amount"),
        ON_MYSQL,
    )

    transaction_id: Mapped[int] = mapped_column(RowId, ForeignKey("transactions.id"), primary_key=True)
    position: Mapped[int] = mapped_column(Integer, primary_key=True)
    account_id: Mapped[int] = mapped_column(RowId)
    currency: Mapped[str] = mapped_column(Currency)
    amount: Mapped[int] = mapped_column(BigInteger)
    booked_on: Mapped[date] = mapped_column(Date, server_default=text("(CURRENT_DATE)"))
