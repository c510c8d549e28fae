"""Columns that each database needs said differently, so that the ledger answers the same from all of them."""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, Dialect, Integer, Numeric, String, TypeDecorator
from sqlalchemy.dialects import mysql
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import DateTime, TypeEngine

from .idempotency import LONGEST_KEY

# SQLite numbers rows by itself only in a column declared INTEGER.
RowId = BigInteger().with_variant(Integer, "sqlite")

# MySQL keeps whole seconds unless told otherwise, and a replay would answer with another moment than the original.
Moment = DateTime(timezone=True).with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")

# MySQL's usual comparison ignores case, and a posting in "eur" would be one in its account's currency.
Currency = String(3).with_variant(mysql.VARCHAR(3, charset="ascii", collation="ascii_bin"), "mysql", "mariadb")


class Key(TypeDecorator[str]):
    """An Idempotency-Key, equal to none but itself.

    On MySQL and MariaDB a column of bytes: every collation the two share takes "a" and "a " for the same key.
    """

    impl = String(LONGEST_KEY)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """The column's type in this database."""
        on_mysql = dialect.name in ("mysql", "mariadb")
        return dialect.type_descriptor(mysql.VARBINARY(LONGEST_KEY) if on_mysql else String(LONGEST_KEY))

    def process_bind_param(self, value: str | None, dialect: Dialect) -> Any:
        """The key as it is sent."""
        on_mysql = dialect.name in ("mysql", "mariadb")
        return value.encode() if on_mysql and value is not None else value

    def process_result_value(self, value: Any, dialect: Dialect) -> str | None:
        """The key as it was given."""
        return value.decode() if isinstance(value, bytes) else value


class now_in_utc(FunctionElement[Any]):  # noqa: N801 - used like SQLAlchemy's own `func.now()`
    """The default of a moment: MySQL stores what the session's clock shows, without its zone."""

    inherit_cache = True


@compiles(now_in_utc)
def _now(_element: now_in_utc, _compiler: SQLCompiler, **_: Any) -> str:
    return "now()"


@compiles(now_in_utc, "sqlite")
def _now_sqlite(_element: now_in_utc, _compiler: SQLCompiler, **_: Any) -> str:
    return "CURRENT_TIMESTAMP"


@compiles(now_in_utc, "mysql", "mariadb")
def _now_mysql(_element: now_in_utc, _compiler: SQLCompiler, **_: Any) -> str:
    return "(UTC_TIMESTAMP(6))"


class _Whole(TypeDecorator[int]):
    impl = Numeric
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(String() if dialect.name == "sqlite" else Numeric())

    def process_result_value(self, value: Any, dialect: Dialect) -> int:
        if not isinstance(value, str):
            return int(value)
        high, low = map(int, value.split())
        return (high << 32) + low


class exact_sum(FunctionElement[int]):  # noqa: N801 - used like SQLAlchemy's own `func.sum()`
    """SUM of 64-bit amounts, 0 without rows, in as many bits as it needs.

    SQLite's own ends with "integer overflow", so there the upper and the lower 32 bits are summed apart.
    """

    inherit_cache = True
    type = _Whole()


@compiles(exact_sum)
def _sum(element: exact_sum, compiler: SQLCompiler, **options: Any) -> str:
    return f"coalesce(sum({compiler.process(element.clauses, **options)}), 0)"


@compiles(exact_sum, "sqlite")
def _sum_sqlite(element: exact_sum, compiler: SQLCompiler, **options: Any) -> str:
    amount = compiler.process(element.clauses, **options)
    return f"coalesce(sum({amount} >> 32) || ' ' || sum({amount} & 4294967295), '0 0')"
