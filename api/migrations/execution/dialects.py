"""What the databases spell differently: the moment, who is connected, and which characters they store.

Moments are UTC: PostgreSQL keeps the zone, the others keep none and hand out what was put in.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.expression import FunctionElement

from ..text.encoding import ASCII, UTF8, storable


class Now(FunctionElement[datetime]):
    """The database's clock at this moment, not at the beginning of the transaction."""

    type = sa.DateTime(timezone=True)
    inherit_cache = True


class User(FunctionElement[str]):
    """The user who is connected; empty where there are none."""

    type = sa.String()
    inherit_cache = True


class Kept(sa.TypeDecorator[str]):
    """Text of ours: cut, and spelt so that the database can store it."""

    impl = sa.String
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: sa.Dialect) -> str | None:
        """What is stored of `value`, and compared with what is stored."""
        return None if value is None else storable(value, _encodings(dialect), getattr(self.impl, "length", None))


class KeptText(Kept):
    """`Kept` of any length."""

    impl = sa.Text
    cache_ok = True


def stores(dialect: sa.Dialect, encodings: Callable[[], tuple[str, ...]]) -> None:
    """Say in which `encodings` the connections of `dialect` pass text on and store it."""
    dialect.kept_encodings = encodings  # type: ignore[attr-defined]


def _encodings(dialect: sa.Dialect) -> tuple[str, ...]:
    known = getattr(dialect, "kept_encodings", None)
    if known is not None:
        return tuple(known())
    return {"postgresql": ASCII}.get(dialect.name, UTF8)


@compiles(Now)
def _now(element: Now, compiler: Any, **_: Any) -> str:
    return "clock_timestamp()"


@compiles(Now, "mysql")
def _now_mysql(element: Now, compiler: Any, **_: Any) -> str:
    return "utc_timestamp(6)"


@compiles(Now, "sqlite")
def _now_sqlite(element: Now, compiler: Any, **_: Any) -> str:
    # to six digits, because SQLAlchemy takes what is behind the point for microseconds
    return "(strftime('%Y-%m-%d %H:%M:%f000', 'now'))"


@compiles(User)
def _user(element: User, compiler: Any, **_: Any) -> str:
    return "CURRENT_USER"


@compiles(User, "mysql")
def _user_mysql(element: User, compiler: Any, **_: Any) -> str:
    return "current_user()"


@compiles(User, "sqlite")
def _user_sqlite(element: User, compiler: Any, **_: Any) -> str:
    return "''"


def aware(moment: datetime | None) -> datetime | None:
    """A moment as a database handed it out, with its zone."""
    return moment.replace(tzinfo=UTC) if moment is not None and moment.tzinfo is None else moment


def epoch(moment: datetime | None) -> float | None:
    """A moment in epoch seconds."""
    known = aware(moment)
    return None if known is None else known.timestamp()
