"""The SQL that differs between the databases."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import registry

from api.migrations.execution.dialects import Now, User, aware, epoch

NOON = datetime(2026, 1, 2, 12, 0, 0, 250000, tzinfo=UTC)


@pytest.mark.parametrize(
    ("name", "now", "user"),
    [
        ("postgresql", "clock_timestamp()", "CURRENT_USER"),
        ("mysql", "utc_timestamp(6)", "current_user()"),
        ("sqlite", "(strftime('%Y-%m-%d %H:%M:%f000', 'now'))", "''"),
    ],
)
def test_each_database_has_its_own_sql(name: str, now: str, user: str) -> None:
    """Each database has its own SQL for the current time, in UTC if no time zone is stored, and the current user."""
    dialect: Any = registry.load(name)()
    assert (str(Now().compile(dialect=dialect)), str(User().compile(dialect=dialect))) == (now, user)


def test_sqlite_returns_the_time_that_it_stored() -> None:
    """SQLite returns a stored time with its milliseconds, which SQLAlchemy would read as microseconds."""
    engine = sa.create_engine("sqlite://")
    before = datetime.now(UTC)
    with engine.connect() as connection:
        read = connection.scalar(sa.select(Now()))
    engine.dispose()
    moment = aware(read)
    assert moment is not None
    assert before - timedelta(milliseconds=1) <= moment <= datetime.now(UTC)


@pytest.mark.parametrize(
    "moment", [NOON, NOON.replace(tzinfo=None), NOON.astimezone(timezone(timedelta(hours=5, minutes=30)))]
)
def test_a_time_without_a_zone_is_utc(moment: datetime) -> None:
    """A stored time without a time zone is read as UTC, and one with a time zone keeps it."""
    assert aware(moment) == NOON
    assert epoch(moment) == NOON.timestamp() == 1767355200.25


def test_a_missing_time_is_none() -> None:
    """The end of an attempt that has not ended is None."""
    assert (aware(None), epoch(None)) == (None, None)
