"""What the drivers of MySQL and SQLite raise, as they raise it."""

import sqlite3
from contextlib import closing
from pathlib import Path

import asyncmy.errors
import pytest
import sqlalchemy.exc

from api.migrations.errors import (
    AccessRefused,
    DatabaseUnreachable,
    MigrationError,
    PrivilegeMissing,
    ReadOnlyServer,
)
from api.migrations.execution import driver_errors
from api.migrations.execution.driver_errors import Sort
from api.migrations.execution.error_translation import contended, describe, lost, missing, remedy, sqlstate, translate

SECRET = "geh3im"


def mysql(number: int, message: str = "words", kind: type[Exception] = asyncmy.errors.OperationalError) -> Exception:
    """An error of asyncmy's, which carries an SQLSTATE as well."""
    error = kind(number, message)
    error.sqlstate = "28000"  # type: ignore[attr-defined]
    return error


def sqlite(*statements: str, path: str | Path = ":memory:") -> sqlite3.Error:
    """What SQLite says to the last of the statements."""
    connection = sqlite3.connect(path, isolation_level=None, timeout=0)
    try:
        for statement in statements:
            connection.execute(statement).fetchall()
    except sqlite3.Error as error:
        return error
    finally:
        connection.close()
    raise AssertionError("it said nothing")


def wrapped(error: BaseException) -> sqlalchemy.exc.DBAPIError:
    """As SQLAlchemy hands it on."""
    return sqlalchemy.exc.OperationalError(f"SELECT '{SECRET}'", {}, error)


@pytest.mark.parametrize(
    ("number", "sort"),
    [
        (2003, Sort.LOST),
        (2013, Sort.LOST),
        (1927, Sort.LOST),
        (1153, Sort.LOST),
        (1040, Sort.LOST),
        (1205, Sort.BUSY),
        (1213, Sort.BUSY),
        (1146, Sort.MISSING),
        (1054, Sort.MISSING),
        (1045, Sort.REFUSED),
        (1049, Sort.REFUSED),
        (1044, Sort.REFUSED),
        (1142, Sort.PRIVILEGE),
        (1792, Sort.READ_ONLY),
        (1836, Sort.LOST),
        (3032, Sort.LOST),
        (2059, Sort.REFUSED),
        (1862, Sort.REFUSED),
        (1021, Sort.FULL),
        (1064, Sort.SYNTAX),
        (1062, None),
        (1317, None),
    ],
)
def test_the_numbers_of_mysql(number: int, sort: Sort | None) -> None:
    """As its reference lists them, below SQLAlchemy's wrapper too."""
    error = mysql(number)
    assert (driver_errors.sort(error), driver_errors.code(error)) == (sort, f"error {number}")
    assert lost(wrapped(error)) is (sort is Sort.LOST)
    assert contended(wrapped(error)) is (sort is Sort.BUSY)
    assert missing(wrapped(error)) is (sort is Sort.MISSING)


def test_the_sqlstate_of_mysql_is_not_postgresqls() -> None:
    """28000 would speak of pg_hba.conf."""
    assert sqlstate(wrapped(mysql(1045))) is None
    assert "pg_hba" not in str(translate(wrapped(mysql(1045)), "connecting"))


@pytest.mark.parametrize(
    ("error", "sort"),
    [
        (sqlite("SELECT * FROM nowhere"), Sort.MISSING),
        (sqlite("SELECT unheard_of"), Sort.MISSING),
        (sqlite("SELECT FROM"), Sort.SYNTAX),
        (sqlite("SELECT 'never"), Sort.SYNTAX),
        (sqlite("CREATE TABLE t (a)", "CREATE TABLE t (a)"), None),
        (sqlite("CREATE TABLE t (a PRIMARY KEY)", "INSERT INTO t VALUES (1), (1)"), None),
        (sqlite("PRAGMA query_only = 1", "CREATE TABLE t (a)"), Sort.READ_ONLY),
    ],
)
def test_the_names_of_sqlite(error: sqlite3.Error, sort: Sort | None) -> None:
    """As the library of this machine says them."""
    assert driver_errors.sort(error) is sort


def test_a_locked_database_is_busy(tmp_path: Path) -> None:
    """Also by its longer names."""
    path = tmp_path / "shop.db"
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    error = sqlite("BEGIN IMMEDIATE", path=path)
    other.close()
    assert (driver_errors.sort(error), driver_errors.code(error)) == (Sort.BUSY, "SQLITE_BUSY")
    error.sqlite_errorname = "SQLITE_BUSY_SNAPSHOT"
    assert driver_errors.sort(error) is Sort.BUSY


def test_what_cannot_be_opened(tmp_path: Path) -> None:
    """Neither what is not there nor what is no database."""
    letter = tmp_path / "letter"
    letter.write_text("Dear Sir or Madam\n" * 100)
    for path in (tmp_path / "nowhere" / "shop.db", letter):
        with pytest.raises(sqlite3.Error) as raised, closing(sqlite3.connect(path)) as connection:
            connection.execute("SELECT * FROM sqlite_master")
        assert driver_errors.sort(raised.value) is Sort.NOT_OPENED


@pytest.mark.parametrize("error", [ValueError("1205"), OSError(1205, "x"), KeyError(1205)])
def test_other_errors_are_others(error: Exception) -> None:
    """A number alone makes no error of MySQL's."""
    assert (driver_errors.number(error), driver_errors.name(error), driver_errors.sort(error)) == (None, None, None)
    assert driver_errors.code(error) is None


@pytest.mark.parametrize(
    ("number", "message", "shown"),
    [
        (1062, f"Duplicate entry '{SECRET}' for key 'PRIMARY'", "Duplicate entry '…' for key `PRIMARY`"),
        (1062, f"Duplicate entry 'it's {SECRET}' for key 'a'", "Duplicate entry '…' for key `a`"),
        (1062, f"Duplicate entry 'two\n{SECRET}\nlines' for key 'a'", "Duplicate entry '…' for key `a`"),
        (1062, f"Duplicate entry '' for key '{SECRET}' for key 't.a'", "Duplicate entry '…' for key `t.a`"),
        (
            1366,
            f"Incorrect integer value: '{SECRET}' for column 'n' at row 1",
            "Incorrect integer value: '…' for column `n` at row 1",
        ),
        (1292, f"Truncated incorrect DOUBLE value: '{SECRET}' for column 'n'", "Truncated incorrect DOUBLE value: '…'"),
        (1406, "Data too long for column 'n' at row 1", "Data too long for column `n` at row 1"),
        (1265, "Data truncated for column 'n' at row 1", "Data truncated for column `n` at row 1"),
        (3819, "Check constraint 'positive' is violated.", "Check constraint `positive` is violated."),
        (
            1366,
            f"Incorrect integer value: '{SECRET}' for column `d`.`t`.`n` at row 1",
            "Incorrect integer value: '…' for column `d`.`t`.`n` at row 1",
        ),
        (
            1064,
            f"You have an error … near '{SECRET}' at line 1",
            "its text is left out because it quotes the statement",
        ),
        (1146, "Table 'd.t' doesn't exist", "Table `d.t` doesn't exist"),
        (1054, "Unknown column 'a' in 'field list'", "Unknown column `a` in `field list`"),
        (1050, "Table 't' already exists", "Table `t` already exists"),
    ],
)
def test_names_are_shown_and_values_are_not(number: int, message: str, shown: str) -> None:
    """Whatever stands in a value: quotation marks and line breaks too."""
    assert describe(wrapped(mysql(number, message))) == f"OperationalError (error {number}): {shown}"


def test_sqlite_shows_no_text_that_it_could_not_decode() -> None:
    """It quotes the text, and an expression instead of a column's name."""
    text = f"CAST(CAST('it''s {SECRET}' AS BLOB) || x'ff' AS TEXT)"
    named, unnamed = (describe(wrapped(sqlite(f"SELECT {text}{alias}"))) for alias in (" AS city", ""))
    assert named.endswith("Could not decode to UTF-8 column `city`"), named
    assert unnamed.endswith("Could not decode to UTF-8 column `…`"), unnamed


@pytest.mark.parametrize(
    ("error", "expected", "words"),
    [
        (mysql(2003, "Can't connect to MySQL server on 'host'"), DatabaseUnreachable, "does not answer"),
        (mysql(1205), DatabaseUnreachable, "another session holds a conflicting lock"),
        (mysql(1045, "Access denied for user 'ledger'@'host'"), AccessRefused, "check user and password"),
        (mysql(1142, "CREATE command denied to user 'ledger'@'host'"), PrivilegeMissing, "GRANT it"),
        (mysql(1290, "running with the --read-only option"), DatabaseUnreachable, "at the primary"),
        (mysql(1290, "running with the --secure-file-priv option"), MigrationError, "--secure-file-priv"),
        (mysql(1792), ReadOnlyServer, "SET GLOBAL transaction_read_only"),
        (mysql(1040), DatabaseUnreachable, "no free connection"),
        (mysql(1226, "User 'ledger' has exceeded"), DatabaseUnreachable, "one of its limits"),
        (mysql(4031), DatabaseUnreachable, "wait_timeout"),
        (mysql(1129, "Host 'host' is blocked"), AccessRefused, "mysqladmin flush-hosts"),
        (mysql(1130, "Host 'host' is not allowed"), AccessRefused, "CREATE USER"),
        (
            mysql(2059, "Authentication plugin 'auth_gssapi_client' not configured"),
            AccessRefused,
            "caching_sha2_password",
        ),
        (mysql(1021), MigrationError, "disk is full"),
        (sqlite("PRAGMA query_only = 1", "CREATE TABLE t (a)"), ReadOnlyServer, "writable"),
        (sqlite("SELECT * FROM nowhere"), MigrationError, "no such table: nowhere"),
    ],
)
def test_what_becomes_of_them(error: Exception, expected: type[MigrationError], words: str) -> None:
    """One of ours, with a remedy, and without the names of host and user."""
    found = translate(wrapped(error), "looking")
    assert type(found) is expected
    assert words in str(found)
    assert "ledger" not in str(found)
    assert "'host'" not in str(found)


def test_only_a_full_disk_has_its_remedy() -> None:
    """It is said once."""
    assert "disk is full" in remedy(wrapped(mysql(1114)))
    assert remedy(wrapped(mysql(1062))) == ""
