"""The service answers 503 to errors that mean an outage, and does not hide defects."""

import sqlite3

import asyncpg
import pytest
from asyncmy.errors import MySQLError
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from api.ledger.outages import means_away, means_deadlock, reason


def sqlite(name: str) -> sqlite3.Error:
    """Return SQLite's error of that name, as its module raises it."""
    error = sqlite3.OperationalError(name)
    error.sqlite_errorcode, error.sqlite_errorname = getattr(sqlite3, name), name
    return error


def wrapped(original: BaseException) -> DBAPIError:
    """Return the error in SQLAlchemy's wrapper."""
    return DBAPIError("SELECT 1", {}, original)


@pytest.mark.parametrize(
    ("original", "said"),
    [
        (MySQLError(1213, "Deadlock found"), "MySQL 1213"),
        (MySQLError(1205, "Lock wait timeout exceeded"), "MySQL 1205"),
        (MySQLError(1040, "Too many connections"), "MySQL 1040"),
        (MySQLError(1045, "Access denied"), "MySQL 1045"),
        (MySQLError(1836, "Running in read-only mode"), "MySQL 1836"),
        (MySQLError(1862, "Your password has expired"), "MySQL 1862"),
        (MySQLError(3032, "The server is currently in offline mode"), "MySQL 3032"),
        (MySQLError(2003, "Can't connect"), "MySQL 2003"),
        (sqlite("SQLITE_BUSY"), "SQLITE_BUSY"),
        (sqlite("SQLITE_BUSY_SNAPSHOT"), "SQLITE_BUSY_SNAPSHOT"),
        (sqlite("SQLITE_CANTOPEN"), "SQLITE_CANTOPEN"),
        (sqlite("SQLITE_IOERR_FSYNC"), "SQLITE_IOERR_FSYNC"),
        (sqlite("SQLITE_FULL"), "SQLITE_FULL"),
        (asyncpg.DeadlockDetectedError("x"), "40P01"),
        (asyncpg.CannotConnectNowError("x"), "57P03"),
    ],
)
def test_an_outage_is_recognised_by_its_code(original: BaseException, said: str) -> None:
    """An outage is recognised and named by its error code, because the message may contain values."""
    error = wrapped(original)
    assert means_away(error)
    assert reason(error) == said


@pytest.mark.parametrize(
    "original",
    [
        MySQLError(1062, "Duplicate entry"),
        MySQLError(1064, "You have an error in your SQL syntax"),
        MySQLError(1146, "Table doesn't exist"),
        MySQLError(1366, "Incorrect value"),
        sqlite("SQLITE_CONSTRAINT_UNIQUE"),
        sqlite("SQLITE_ERROR"),
        sqlite("SQLITE_CORRUPT"),
        asyncpg.UndefinedTableError("x"),
        asyncpg.UniqueViolationError("x"),
    ],
)
def test_a_defect_is_not_an_outage(original: BaseException) -> None:
    """A duplicate key, a syntax error, a missing table or a corrupt file does not count as an outage."""
    assert not means_away(wrapped(original))


@pytest.mark.parametrize("error", [PoolTimeout(), ConnectionRefusedError()])
def test_an_outage_without_a_code_is_named_by_its_class(error: PoolTimeout | OSError) -> None:
    """A pool timeout or a refused connection has no code and is named by its class."""
    assert means_away(error)
    assert reason(error) == type(error).__name__


def test_only_a_deadlock_is_retried_at_once() -> None:
    """Only a deadlock may be retried at once; other outages may not."""
    assert means_deadlock(wrapped(MySQLError(1213, "Deadlock found")))
    assert means_deadlock(wrapped(asyncpg.DeadlockDetectedError("x")))
    assert not means_deadlock(wrapped(MySQLError(1205, "Lock wait timeout exceeded")))
    assert not means_deadlock(PoolTimeout())
