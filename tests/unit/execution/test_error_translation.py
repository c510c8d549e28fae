"""Foreign errors become ours in one place: worth another try or not, with a remedy, and without anybody's data."""

import re
import socket
import ssl
from contextlib import nullcontext
from types import SimpleNamespace

import asyncpg
import pytest
import sqlalchemy.exc

from api.migrations.databases.mysql.platform import refuse_old_server
from api.migrations.errors import (
    AccessRefused,
    ConfigurationError,
    DatabaseUnreachable,
    DirectConnectionNeeded,
    HoldLost,
    MigrationError,
    PrivilegeMissing,
    ReadOnlyServer,
)
from api.migrations.execution.error_translation import describe, lost, remedy, root, sqlstate, translate, where

SECRET = "geh3im"


def self_signed() -> ssl.SSLCertVerificationError:
    """What the ssl module raises; it sets the message itself."""
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_message = "self-signed certificate"
    return error


TRANSIENT = [
    ConnectionRefusedError(111, "Connection refused"),
    ConnectionResetError(104, "Connection reset by peer"),
    TimeoutError(),
    socket.gaierror(-2, "Name or service not known"),
    OSError("Multiple exceptions"),
    asyncpg.InterfaceError("connection is closed"),
    asyncpg.InternalClientError("unexpected end of stream"),
    asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation"),
    asyncpg.PostgresConnectionError("connection failure"),
    asyncpg.CannotConnectNowError("the database system is starting up"),
    asyncpg.AdminShutdownError("terminating connection due to administrator command"),
    asyncpg.CrashShutdownError("terminating connection because of crash"),
    asyncpg.TooManyConnectionsError("sorry, too many clients already"),
]
PERMANENT = [
    (asyncpg.InvalidPasswordError("password authentication failed"), AccessRefused, "user and password"),
    (asyncpg.InvalidAuthorizationSpecificationError("no pg_hba.conf entry"), AccessRefused, "pg_hba.conf"),
    (asyncpg.InvalidCatalogNameError('database "x" does not exist'), AccessRefused, "does not exist"),
    (self_signed(), AccessRefused, "self-signed certificate"),
    (asyncpg.InsufficientPrivilegeError("permission denied for schema public"), PrivilegeMissing, "GRANT"),
    (asyncpg.ReadOnlySQLTransactionError("cannot execute"), ReadOnlyServer, "primary"),
    (asyncpg.ClientConfigurationError("bad sslmode"), ConfigurationError, "database URL"),
    (asyncpg.DiskFullError("could not extend file"), MigrationError, "disk is full. To fix: free or add disk space"),
    (asyncpg.OutOfMemoryError("out of shared memory"), MigrationError, "To fix: raise max_locks_per_transaction"),
    (asyncpg.OutOfMemoryError("out of memory"), MigrationError, "no memory left. To fix: give it more"),
    (asyncpg.UndefinedTableError('relation "x" does not exist'), MigrationError, 'relation "x"'),
    (
        asyncpg.ConnectionDoesNotExistError("closed: … in statement pooling mode"),
        DirectConnectionNeeded,
        "direct endpoint",
    ),
    (ValueError("a revision's own"), MigrationError, "ValueError: a revision's own"),
]


def wrapped(error: BaseException) -> sqlalchemy.exc.DBAPIError:
    """The same error as SQLAlchemy's asyncpg dialect hands it on: the driver's is the cause of the adapter's."""
    adapter = Exception(f"<class {type(error).__name__}>: {error}")
    adapter.__cause__ = error
    adapter.sqlstate = getattr(error, "sqlstate", None)  # type: ignore[attr-defined]
    return sqlalchemy.exc.DBAPIError(f"INSERT INTO t VALUES ('{SECRET}')", {"a": SECRET}, adapter)


@pytest.mark.parametrize("error", TRANSIENT, ids=lambda error: type(error).__name__)
def test_a_lost_or_busy_server_is_worth_another_try(error: Exception) -> None:
    """Directly or through SQLAlchemy, and whoever reads it knows what was being done."""
    for given in (error, wrapped(error)):
        translated = translate(given, "reading the revision")
        assert type(translated) is DatabaseUnreachable
        assert "while reading the revision" in str(translated)
        assert lost(given)


@pytest.mark.parametrize("error", [asyncpg.DeadlockDetectedError("x"), asyncpg.LockNotAvailableError("x")])
def test_a_locked_table_of_ours_is_waited_for(error: Exception) -> None:
    """Outside a revision it is the version or the history table; the connection lives, so nothing is lost."""
    translated = translate(error, "reading the revision")
    assert type(translated) is DatabaseUnreachable
    assert re.match("no answer while reading the revision: .*another session", str(translated))
    assert not lost(error)


@pytest.mark.parametrize(("error", "expected", "word"), PERMANENT, ids=[type(row[0]).__name__ for row in PERMANENT])
def test_a_refusal_is_not_tried_again(error: Exception, expected: type[MigrationError], word: str) -> None:
    """Its class says what kind of help is needed, and its text which."""
    translated = translate(error, "migrating")
    assert type(translated) is expected
    assert word in str(translated)
    assert "\n" not in str(translated)


@pytest.mark.parametrize(("error", "expected", "word"), PERMANENT, ids=[type(row[0]).__name__ for row in PERMANENT])
def test_sqlalchemy_does_not_change_the_class(error: Exception, expected: type[MigrationError], word: str) -> None:
    """A revision's errors come wrapped, and its statement is not repeated."""
    translated = translate(wrapped(error), "migrating")
    assert type(translated) is expected
    assert SECRET not in str(translated)


def test_our_own_error_is_handed_back() -> None:
    """Nothing is translated twice."""
    error = HoldLost("gone")
    assert translate(error, "migrating") is error


def test_the_system_s_error_does_not_name_the_host() -> None:
    """Asyncio puts host and port into it, and both stand in the URL."""
    text = "[Errno 111] Connect call failed ('10.1.2.3', 5432)"
    for error in (ConnectionRefusedError(111, text), OSError(text), socket.gaierror(-2, "dbhost: Name not known")):
        line = str(translate(error, "connecting"))
        assert "10.1.2.3" not in line
        assert "5432" not in line


@pytest.mark.parametrize("error", [ConnectionRefusedError(111, "10.1.2.3"), wrapped(ConnectionRefusedError(111, "x"))])
def test_the_system_s_error_keeps_its_reason(error: Exception) -> None:
    """Refused and timed out call for different remedies."""
    assert "Connection refused" in str(translate(error, "connecting"))


@pytest.mark.parametrize(
    "error",
    [
        asyncpg.InvalidTextRepresentationError(f'invalid input syntax for type integer: "{SECRET}"'),
        asyncpg.DataError(f"invalid input for query argument $1: {SECRET}"),
        asyncpg.InvalidDatetimeFormatError(f"invalid input syntax for type date: {SECRET}"),
        asyncpg.StringDataRightTruncationError(f"value too long: {SECRET}"),
        asyncpg.InvalidTextRepresentationError(f"ungültige Eingabesyntax für Typ integer: »{SECRET}«"),
        asyncpg.InvalidTextRepresentationError(f"syntaxe en entrée invalide pour l'entier : « {SECRET} »"),
        asyncpg.InvalidDatetimeFormatError(f'sin cierre "{SECRET}\n{SECRET}'),
        asyncpg.DataError(f"invalid input for query argument $1: '{SECRET}' (it's {SECRET} (got {SECRET}))"),
    ],
)
def test_a_data_exception_is_described_without_its_value(error: asyncpg.PostgresError) -> None:
    """Class 22 quotes the value, in the quotation marks of the server's language."""
    for given in (error, wrapped(error)):
        line = describe(given)
        assert SECRET not in line
        assert type(error).__name__ in line
        assert f"SQLSTATE {error.sqlstate}" in line


def test_literals_in_a_message_are_left_out() -> None:
    """The server repeats them in more messages than those of class 22."""
    error = asyncpg.CheckViolationError(f"value '{SECRET}' and 'it''s {SECRET}' not allowed in \"column\"")
    assert SECRET not in describe(error)
    assert '"column"' in describe(error)


def test_detail_and_further_lines_are_left_out() -> None:
    """DETAIL of a unique violation has the row in it."""
    error = asyncpg.UniqueViolationError(f'duplicate key violates "pk"\nDETAIL:  Key (a)=({SECRET}) exists.')
    assert describe(error) == 'UniqueViolationError (SQLSTATE 23505): duplicate key violates "pk"'


def test_a_statement_error_of_sqlalchemy_is_described_without_the_statement() -> None:
    """A missing bind parameter never reaches the server, and its text is the statement."""
    error = sqlalchemy.exc.StatementError("missing", f"SELECT '{SECRET}'", {"a": SECRET}, ValueError("missing a"))
    assert SECRET not in describe(error)


def test_a_long_message_is_cut() -> None:
    """It goes into a table, a log line and a health page."""
    assert len(describe(ValueError("x" * 10_000))) < 400


def test_root_and_code_see_through_sqlalchemy() -> None:
    """Both are the driver's own."""
    error = asyncpg.DeadlockDetectedError("deadlock detected")
    assert root(wrapped(error)) is error
    assert sqlstate(wrapped(error)) == "40P01"
    assert (root(error), sqlstate(ValueError("x"))) == (error, None)


def test_the_place_in_a_revision_is_named() -> None:
    """File and line, because a revision may be long."""
    try:
        raise ValueError
    except ValueError as error:
        place, elsewhere = where(error, __file__), where(error, "/elsewhere.py")
    assert place.startswith(", at test_error_translation.py:")
    assert elsewhere == where(ValueError(), None) == ""


def test_a_parameter_the_server_does_not_know_is_a_setting_to_correct() -> None:
    """`?schema=public` of other tools: waiting would not make it known."""
    error = asyncpg.UndefinedObjectError('unrecognized configuration parameter "schema"')
    assert isinstance(translate(error, "connecting"), ConfigurationError)
    assert not isinstance(translate(error, "migrating"), ConfigurationError)


def test_mysql_that_wants_the_password_encrypted_names_the_package() -> None:
    """Asyncmy's own words quote it, and what is quoted is left out."""
    error = RuntimeError("'cryptography' package is required for sha256_password or caching_sha2_password auth methods")
    translated = translate(error, "connecting")
    assert isinstance(translated, ConfigurationError)
    assert "pip install cryptography" in str(translated)


def test_a_binlog_that_takes_no_rows_is_named() -> None:
    """MySQL's 1665 says what it cannot do, and not what to set."""
    asyncmy = pytest.importorskip("asyncmy.errors")
    assert "set it to ROW" in remedy(asyncmy.InternalError(1665, "Cannot execute statement"))


@pytest.mark.parametrize(
    ("is_mariadb", "version", "refused"),
    [
        (False, (8, 0, 12), True),
        (False, (8, 0, 13), False),
        (False, (8, 4, 3), False),
        (True, (10, 1, 48), True),
        (True, (10, 11, 19), False),
    ],
)
def test_a_server_that_is_too_old_is_refused(is_mariadb: bool, version: tuple[int, ...], refused: bool) -> None:
    """The history's defaults are expressions, which it would call a syntax error."""
    dialect = SimpleNamespace(is_mariadb=is_mariadb, server_version_info=version)
    with pytest.raises(ConfigurationError, match="or newer is needed") if refused else nullcontext():
        refuse_old_server(dialect)


def test_a_url_in_a_message_is_left_out() -> None:
    """An env.py that quotes its URL in an error of its own gives no password away, in quotation marks or without."""
    error = RuntimeError("cannot use 'postgresql+asyncpg://me:secret@host/shop' or redis://:secret@host")
    assert describe(error, quotes=True) == "RuntimeError: cannot use 'postgresql+asyncpg://… or redis://…"
