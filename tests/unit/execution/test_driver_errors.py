"""The errors that the drivers of MySQL and SQLite raise."""

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
    in_full,
)
from api.migrations.execution import driver_errors
from api.migrations.execution.driver_errors import ErrorKind
from api.migrations.execution.error_translation import contended, describe, lost, missing, remedy, sqlstate, translate

SECRET = "geh3im"
INTEGER = "Incorrect integer value: '{}' for column {} at row 1"


def mysql(number: int, message: str = "words", kind: type[Exception] = asyncmy.errors.OperationalError) -> Exception:
    """Return an error of asyncmy, which has an SQLSTATE too."""
    error = kind(number, message)
    error.sqlstate = "28000"  # type: ignore[attr-defined]
    return error


def sqlite(*statements: str, path: str | Path = ":memory:") -> sqlite3.Error:
    """Return the error that SQLite raises for the last of the statements."""
    connection = sqlite3.connect(path, isolation_level=None, timeout=0)
    try:
        for statement in statements:
            connection.execute(statement).fetchall()
    except sqlite3.Error as error:
        return error
    finally:
        connection.close()
    raise AssertionError("SQLite raised no error")


def wrapped(error: BaseException) -> sqlalchemy.exc.DBAPIError:
    """Return the error in SQLAlchemy's wrapper."""
    return sqlalchemy.exc.OperationalError(f"SELECT '{SECRET}'", {}, error)


MYSQL: dict[ErrorKind | None, tuple[int, ...]] = {
    ErrorKind.LOST: (2003, 2013, 1927, 1153, 1040, 1836, 3032),
    ErrorKind.BUSY: (1205, 1213),
    ErrorKind.MISSING: (1146, 1054),
    ErrorKind.REFUSED: (1045, 1049, 1044, 2059, 1862),
    ErrorKind.PRIVILEGE: (1142,),
    ErrorKind.READ_ONLY: (1792,),
    ErrorKind.FULL: (1021,),
    ErrorKind.SYNTAX: (1064,),
    None: (1062, 1317),
}


@pytest.mark.parametrize(("number", "kind"), [(number, kind) for kind, numbers in MYSQL.items() for number in numbers])
def test_a_mysql_error_number_has_a_kind(number: int, kind: ErrorKind | None) -> None:
    """Each error number of MySQL has a kind, also in SQLAlchemy's wrapper."""
    error = mysql(number)
    assert (driver_errors.error_kind(error), driver_errors.code(error)) == (kind, f"error {number}")
    assert lost(wrapped(error)) is (kind is ErrorKind.LOST)
    assert contended(wrapped(error)) is (kind is ErrorKind.BUSY)
    assert missing(wrapped(error)) is (kind is ErrorKind.MISSING)


def test_the_sqlstate_of_mysql_is_ignored() -> None:
    """MySQL's SQLSTATE 28000 is ignored, because PostgreSQL's remedy for it names pg_hba.conf."""
    assert sqlstate(wrapped(mysql(1045))) is None
    assert "pg_hba" not in str(translate(wrapped(mysql(1045)), "connecting"))


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (sqlite("SELECT * FROM nowhere"), ErrorKind.MISSING),
        (sqlite("SELECT unheard_of"), ErrorKind.MISSING),
        (sqlite("SELECT FROM"), ErrorKind.SYNTAX),
        (sqlite("SELECT 'never"), ErrorKind.SYNTAX),
        (sqlite("CREATE TABLE t (a)", "CREATE TABLE t (a)"), None),
        (sqlite("CREATE TABLE t (a PRIMARY KEY)", "INSERT INTO t VALUES (1), (1)"), None),
        (sqlite("PRAGMA query_only = 1", "CREATE TABLE t (a)"), ErrorKind.READ_ONLY),
    ],
)
def test_a_sqlite_error_name_has_a_kind(error: sqlite3.Error, kind: ErrorKind | None) -> None:
    """Each error name of SQLite, raised by this machine's library, has a kind."""
    assert driver_errors.error_kind(error) is kind


def test_a_locked_database_is_busy(tmp_path: Path) -> None:
    """A locked SQLite database has the kind "busy", also by its extended error names."""
    path = tmp_path / "shop.db"
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    error = sqlite("BEGIN IMMEDIATE", path=path)
    other.close()
    assert (driver_errors.error_kind(error), driver_errors.code(error)) == (ErrorKind.BUSY, "SQLITE_BUSY")
    error.sqlite_errorname = "SQLITE_BUSY_SNAPSHOT"
    assert driver_errors.error_kind(error) is ErrorKind.BUSY


def test_a_file_that_cannot_be_opened_has_its_own_kind(tmp_path: Path) -> None:
    """A SQLite file in a missing folder, or one that is no database, has a kind of its own."""
    letter = tmp_path / "letter"
    letter.write_text("Dear Sir or Madam\n" * 100)
    for path in (tmp_path / "nowhere" / "shop.db", letter):
        with pytest.raises(sqlite3.Error) as raised, closing(sqlite3.connect(path)) as connection:
            connection.execute("SELECT * FROM sqlite_master")
        assert driver_errors.error_kind(raised.value) is ErrorKind.NOT_OPENED


@pytest.mark.parametrize("error", [ValueError("1205"), OSError(1205, "x"), KeyError(1205)])
def test_another_driver_s_error_has_no_kind(error: Exception) -> None:
    """An error of another driver with one of MySQL's numbers has no kind."""
    ask = (driver_errors.number, driver_errors.name, driver_errors.error_kind, driver_errors.code)
    assert [function(error) for function in ask] == [None] * 4


@pytest.mark.parametrize(
    ("number", "message", "shown"),
    [
        (1062, f"Duplicate entry '{SECRET}' for key 'PRIMARY'", "Duplicate entry '…' for key `PRIMARY`"),
        (1062, f"Duplicate entry 'it's {SECRET}' for key 'a'", "Duplicate entry '…' for key `a`"),
        (1062, f"Duplicate entry 'two\n{SECRET}\nlines' for key 'a'", "Duplicate entry '…' for key `a`"),
        (1062, f"Duplicate entry '' for key '{SECRET}' for key 't.a'", "Duplicate entry '…' for key `t.a`"),
        (1366, INTEGER.format(SECRET, "'n'"), INTEGER.format("…", "`n`")),
        (1292, f"Truncated incorrect DOUBLE value: '{SECRET}' for column 'n'", "Truncated incorrect DOUBLE value: '…'"),
        (1406, "Data too long for column 'n' at row 1", "Data too long for column `n` at row 1"),
        (1265, "Data truncated for column 'n' at row 1", "Data truncated for column `n` at row 1"),
        (3819, "Check constraint 'positive' is violated.", "Check constraint `positive` is violated."),
        (1366, INTEGER.format(SECRET, "`d`.`t`.`n`"), INTEGER.format("…", "`d`.`t`.`n`")),
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
    """A described error keeps the names of tables and columns and omits the values."""
    assert in_full(describe(wrapped(mysql(number, message)))) == f"OperationalError (error {number}): {shown}"


def test_text_that_sqlite_could_not_decode_is_not_shown() -> None:
    """SQLite's message about undecodable text quotes the text, and is not shown."""
    text = f"CAST(CAST('it''s {SECRET}' AS BLOB) || x'ff' AS TEXT)"
    named, unnamed = (in_full(describe(wrapped(sqlite(f"SELECT {text}{alias}")))) for alias in (" AS city", ""))
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
        (mysql(2059, "Authentication plugin 'gssapi' not configured"), AccessRefused, "caching_sha2_password"),
        (mysql(1021), MigrationError, "disk is full"),
        (sqlite("PRAGMA query_only = 1", "CREATE TABLE t (a)"), ReadOnlyServer, "writable"),
        (sqlite("SELECT * FROM nowhere"), MigrationError, "no such table: nowhere"),
    ],
)
def test_an_error_is_translated_with_a_remedy(error: Exception, expected: type[MigrationError], words: str) -> None:
    """A driver's error is translated into one with a remedy, without host and user."""
    translated = translate(wrapped(error), "looking")
    assert type(translated) is expected
    assert words in str(translated)
    assert "ledger" not in str(translated)
    assert "'host'" not in str(translated)


def test_a_full_disk_has_a_remedy() -> None:
    """The error of a full disk has a remedy, and that of a duplicate key has none."""
    assert "disk is full" in remedy(wrapped(mysql(1114)))
    assert remedy(wrapped(mysql(1062))) == ""
