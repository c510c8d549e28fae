"""What differs between the databases: the current time and user in SQL, text in the database's encoding, missing files.

Times are UTC: PostgreSQL returns them with a time zone, the other databases without one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.expression import FunctionElement

from ..text.encoding import ASCII, UTF8, storable


class Now(FunctionElement[datetime]):
    """The database's current time, not the transaction's start."""

    type = sa.DateTime(timezone=True)
    inherit_cache = True


class User(FunctionElement[str]):
    """The connected user; empty on SQLite, which has no users."""

    type = sa.String()
    inherit_cache = True


class Kept(sa.TypeDecorator[str]):
    """Text of this package, shortened to the column and escaped for the database's encoding."""

    impl = sa.String
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: sa.Dialect) -> str | None:
        """Return `value` as it is stored and compared."""
        return None if value is None else storable(value, _encodings(dialect), getattr(self.impl, "length", None))


class KeptText(Kept):
    """`Kept` of any length."""

    impl = sa.Text
    cache_ok = True


class Moment(sa.DateTime):
    """A time with microseconds."""


def stores(dialect: sa.Dialect, encodings: Callable[[], tuple[str, ...]]) -> None:
    """Set the function that returns the encodings of the client and the database for the connections of `dialect`."""
    dialect.kept_encodings = encodings  # type: ignore[attr-defined]


def missing_file(dialect: sa.Dialect, arguments: Sequence[Any]) -> str | None:
    """Return the SQLite file that a connection with these arguments of the driver would create, if any."""
    if dialect.name != "sqlite":
        return None
    file = str(arguments[0])
    is_file = file not in {"", ":memory:"} and not file.startswith("file:")
    return file if is_file and not Path(file).exists() else None


def table_options(dialect: sa.Dialect, charset: str) -> dict[str, str]:
    """Return the options of a new table: on MySQL its engine, which must have transactions, and `charset`.

    They are not in the table's definition, because that would import the dialect.
    """
    if dialect.name not in {"mysql", "mariadb"}:
        return {}
    return {f"{dialect.name}_engine": "InnoDB", f"{dialect.name}_charset": charset}


def commits_batches(dialect: sa.Dialect) -> bool:
    """Return whether the batches of a backfill are committed; SQLite has one writer, and one transaction for them."""
    return dialect.name != "sqlite"


def reads_ranges_of_rows(dialect: sa.Dialect) -> bool:
    """Return whether `(a, b) >= (1, 2)` reads a range of an index; MySQL reads all of it, unless it is written out."""
    return dialect.name not in {"mysql", "mariadb"}


def estimated_rows(connection: sa.Connection, table: sa.TableClause) -> int | None:
    """Return how many rows the table has by the server's statistics, if it has any."""
    dialect = connection.dialect
    sql = _ESTIMATED_ROWS.get(dialect.name)
    if sql is None:
        return None
    place = {"quoted": dialect.identifier_preparer.format_table(table), "name": table.name, "schema": table.schema}
    rows = connection.scalar(sa.text(sql), {name: place[name] for name in place if f":{name}" in sql})
    return int(rows) if rows is not None and rows > 0 else None


def replica_lag_seconds(connection: sa.Connection) -> float:
    """Return by how many seconds the slowest replica lags behind; 0 if the server or the role's rights hide it."""
    sql = _REPLICA_LAG.get(connection.dialect.name)
    return float((sql and connection.scalar(sa.text(sql))) or 0)


_ESTIMATED_ROWS = {
    "postgresql": "SELECT reltuples::bigint FROM pg_class WHERE oid = to_regclass(:quoted)",
    **dict.fromkeys(
        ("mysql", "mariadb"),
        "SELECT table_rows FROM information_schema.tables "
        "WHERE table_name = :name AND table_schema = coalesce(:schema, DATABASE())",
    ),
}
_REPLICA_LAG = {"postgresql": "SELECT extract(epoch FROM max(replay_lag))::float8 FROM pg_stat_replication"}
"""A primary of MySQL does not know the lag of its replicas."""


def _encodings(dialect: sa.Dialect) -> tuple[str, ...]:
    known = getattr(dialect, "kept_encodings", None)
    if known is not None:
        return tuple(known())
    return {"postgresql": ASCII}.get(dialect.name, UTF8)


def _compile(element: type[FunctionElement[Any] | Moment], sql: str, *dialects: str) -> None:
    compiles(element, *dialects)(lambda *_, **__: sql)


_compile(Now, "clock_timestamp()")
_compile(Now, "utc_timestamp(6)", "mysql", "mariadb")
# six digits, because SQLAlchemy reads the fraction as microseconds
_compile(Now, "(strftime('%Y-%m-%d %H:%M:%f000', 'now'))", "sqlite")
_compile(Moment, "DATETIME(6)", "mysql", "mariadb")
_compile(User, "CURRENT_USER")
_compile(User, "current_user()", "mysql", "mariadb")
_compile(User, "''", "sqlite")


def aware(moment: datetime | None) -> datetime | None:
    """Add UTC to a time that the database returned without a time zone."""
    return moment.replace(tzinfo=UTC) if moment is not None and moment.tzinfo is None else moment


def epoch(moment: datetime | None) -> float | None:
    """Convert a time that the database returned to epoch seconds."""
    with_zone = aware(moment)
    return None if with_zone is None else with_zone.timestamp()
