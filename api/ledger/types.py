"""Column types that differ by database, so that the ledger answers the same on all of them."""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, Dialect, Integer, Numeric, String, TypeDecorator
from sqlalchemy.dialects import mysql
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import DateTime, TypeEngine

from .idempotency import LONGEST_KEY

# SQLite generates ids only in a column of type INTEGER.
RowId = BigInteger().with_variant(Integer, "sqlite")

# By default MySQL stores whole seconds, and a replay would return another time than the original answer.
Moment = DateTime(timezone=True).with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")

# MySQL's usual comparison ignores case, and a posting in "eur" would be one in its account's currency.
Currency = String(3).with_variant(mysql.VARCHAR(3, charset="ascii", collation="ascii_bin"), "mysql", "mariadb")

# Unique, and compared byte by byte like the currency.
AccountNumber = String(34).with_variant(mysql.VARCHAR(34, charset="ascii", collation="ascii_bin"), "mysql", "mariadb")


class Key(TypeDecorator[str]):
    """An Idempotency-Key, compared byte by byte.

    On MySQL and MariaDB the column has bytes, because every collation that both have treats "a" and "a " as equal.
    """

    impl = String(LONGEST_KEY)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Return the column's type in this database."""
        on_mysql = dialect.name in ("mysql", "mariadb")
        return dialect.type_descriptor(mysql.VARBINARY(LONGEST_KEY) if on_mysql else String(LONGEST_KEY))

    def process_bind_param(self, value: str | None, dialect: Dialect) -> Any:
        """Return the key for the database."""
        on_mysql = dialect.name in ("mysql", "mariadb")
        return value.encode() if on_mysql and value is not None else value

    def process_result_value(self, value: Any, dialect: Dialect) -> str | None:
        """Return the key from the database."""
        return value.decode() if isinstance(value, bytes) else value


class now_in_utc(FunctionElement[Any]):  # noqa: N801 - used like SQLAlchemy's own `func.now()`
    """The current time in UTC; MySQL stores the session's time without its zone."""

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
