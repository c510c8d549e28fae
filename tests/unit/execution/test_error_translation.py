"""Errors of drivers and SQLAlchemy are translated: retried or not, with a remedy, and without data."""

import re
import socket
import sqlite3
import ssl
from contextlib import nullcontext
from types import SimpleNamespace

import asyncmy
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
    NoConnectionLeft,
    PrivilegeMissing,
    ReadOnlyServer,
    in_full,
    in_public,
)
from api.migrations.execution.error_translation import describe, lost, remedy, root, sqlstate, translate, where

SECRET = "geh3im"


def self_signed() -> ssl.SSLCertVerificationError:
    """Return the ssl module's error about a certificate."""
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
    (asyncpg.ConnectionDoesNotExistError("… in statement pooling mode"), DirectConnectionNeeded, "direct endpoint"),
    (ValueError("a revision's own"), MigrationError, "ValueError: a revision's own"),
]


def wrapped(error: BaseException) -> sqlalchemy.exc.DBAPIError:
    """Return the error in the wrapper of SQLAlchemy's asyncpg dialect, as the cause of the adapter's error."""
    adapter = Exception(f"<class {type(error).__name__}>: {error}")
    adapter.__cause__ = error
    adapter.sqlstate = getattr(error, "sqlstate", None)  # type: ignore[attr-defined]
    return sqlalchemy.exc.DBAPIError(f"INSERT INTO t VALUES ('{SECRET}')", {"a": SECRET}, adapter)


@pytest.mark.parametrize("error", TRANSIENT, ids=lambda error: type(error).__name__)
def test_an_unavailable_server_is_retried(error: Exception) -> None:
    """The error of an unavailable server is retryable and names the operation, also in SQLAlchemy's wrapper."""
    for given in (error, wrapped(error)):
        translated = translate(given, "reading the revision")
        exhausted = isinstance(error, asyncpg.TooManyConnectionsError)
        assert type(translated) is (NoConnectionLeft if exhausted else DatabaseUnreachable)
        assert "while reading the revision" in str(translated)
        assert lost(given)


@pytest.mark.parametrize("error", [asyncpg.DeadlockDetectedError("x"), asyncpg.LockNotAvailableError("x")])
def test_a_locked_version_or_history_table_is_retried(error: Exception) -> None:
    """A deadlock or lock timeout outside a revision is retryable, and the connection does not count as lost."""
    translated = translate(error, "reading the revision")
    assert type(translated) is DatabaseUnreachable
    assert re.match("no answer while reading the revision: .*another session", str(translated))
    assert not lost(error)


@pytest.mark.parametrize(("error", "expected", "word"), PERMANENT, ids=[type(row[0]).__name__ for row in PERMANENT])
def test_a_refusal_is_not_retried(error: Exception, expected: type[MigrationError], word: str) -> None:
    """A server's refusal is not retryable, has a remedy, and shows no statement, also in SQLAlchemy's wrapper."""
    translated, unwrapped = translate(error, "migrating"), translate(wrapped(error), "migrating")
    assert type(translated) is type(unwrapped) is expected
    assert word in str(translated)
    assert "\n" not in str(translated)
    assert SECRET not in str(unwrapped)


def test_a_migration_error_is_returned_as_it_is() -> None:
    """A MigrationError is not translated again."""
    error = HoldLost("gone")
    assert translate(error, "migrating") is error


def test_the_system_s_error_does_not_name_the_host() -> None:
    """The translated error of the operating system omits host and port, which asyncio puts into the message."""
    text = "[Errno 111] Connect call failed ('10.1.2.3', 5432)"
    for error in (ConnectionRefusedError(111, text), OSError(text), socket.gaierror(-2, "dbhost: Name not known")):
        line = str(translate(error, "connecting"))
        assert "10.1.2.3" not in line
        assert "5432" not in line


@pytest.mark.parametrize("error", [ConnectionRefusedError(111, "10.1.2.3"), wrapped(ConnectionRefusedError(111, "x"))])
def test_the_system_s_error_keeps_its_reason(error: Exception) -> None:
    """The translated error of the operating system keeps its reason."""
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
    """A data exception is described by class and SQLSTATE without its value, in every language of the server."""
    for given in (error, wrapped(error)):
        line = describe(given)
        assert SECRET not in line
        assert type(error).__name__ in line
        assert f"SQLSTATE {error.sqlstate}" in line


def test_literals_in_a_message_are_left_out() -> None:
    """Quoted literals in a message are omitted, and quoted names are kept."""
    error = asyncpg.CheckViolationError(f"value '{SECRET}' and 'it''s {SECRET}' not allowed in \"column\"")
    assert SECRET not in describe(error)
    assert '"column"' in describe(error)


def test_detail_and_further_lines_are_left_out() -> None:
    """The DETAIL line of a unique violation, which has the row's values, is omitted."""
    error = asyncpg.UniqueViolationError(f'duplicate key violates "pk"\nDETAIL:  Key (a)=({SECRET}) exists.')
    assert in_full(describe(error)) == 'UniqueViolationError (SQLSTATE 23505): duplicate key violates "pk"'


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (ValueError(f"no such customer: {SECRET}"), "ValueError"),
        (asyncpg.UniqueViolationError(f'key "{SECRET}"'), "UniqueViolationError (SQLSTATE 23505)"),
        (wrapped(asyncpg.RaiseError(SECRET)), "RaiseError (SQLSTATE P0001)"),
        (wrapped(asyncmy.errors.IntegrityError(1062, f"Duplicate {SECRET}")), "IntegrityError (error 1062)"),
        (sqlite3.OperationalError(SECRET), "OperationalError (SQLITE_ERROR)"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_the_public_reads_class_and_code_only(error: Exception, shown: str) -> None:
    """The public description of an error is its class and code; the error that quotes it has the text for operators."""
    assert in_public(describe(error)) == f"{shown}: the text is in the log"
    translated = translate(error, "migrating")
    assert (in_public(translated.message), str(translated)) == (
        f"{shown}: the text is in the log while migrating",
        f"{in_full(describe(error))} while migrating",
    )


def test_a_statement_error_of_sqlalchemy_is_described_without_the_statement() -> None:
    """SQLAlchemy's error about a missing bind parameter is described without its statement."""
    error = sqlalchemy.exc.StatementError("missing", f"SELECT '{SECRET}'", {"a": SECRET}, ValueError("missing a"))
    assert SECRET not in describe(error)


def test_a_long_message_is_shortened() -> None:
    """A message of 10,000 characters is shortened to less than 400."""
    assert len(describe(ValueError("x" * 10_000))) < 400


def test_root_and_code_are_those_of_the_driver_s_error() -> None:
    """Root error and SQLSTATE are those of the driver's error in SQLAlchemy's wrapper."""
    error = asyncpg.DeadlockDetectedError("deadlock detected")
    assert root(wrapped(error)) is error
    assert sqlstate(wrapped(error)) == "40P01"
    assert (root(error), sqlstate(ValueError("x"))) == (error, None)


def test_the_place_in_a_revision_is_named() -> None:
    """The error of a revision names its file and line."""
    try:
        raise ValueError
    except ValueError as error:
        place, elsewhere = where(error, __file__), where(error, "/elsewhere.py")
    assert place.startswith(", at test_error_translation.py:")
    assert elsewhere == where(ValueError(), None) == ""


def test_an_unknown_parameter_in_the_url_is_a_configuration_error() -> None:
    """An unknown parameter in the URL is a configuration error, which is not retried."""
    error = asyncpg.UndefinedObjectError('unrecognized configuration parameter "schema"')
    assert isinstance(translate(error, "connecting"), ConfigurationError)
    assert not isinstance(translate(error, "migrating"), ConfigurationError)


def test_a_missing_package_for_mysql_is_named() -> None:
    """The error about a missing package for MySQL's authentication names the package to install."""
    error = RuntimeError("'cryptography' package is required for sha256_password or caching_sha2_password auth methods")
    translated = translate(error, "connecting")
    assert isinstance(translated, ConfigurationError)
    assert "pip install cryptography" in str(translated)


def test_a_binlog_in_statement_format_has_a_remedy() -> None:
    """MySQL's error about a binlog in statement format says to set it to ROW."""
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
    """A MySQL before 8.0.13 or an equally old MariaDB is refused, and newer ones are accepted."""
    dialect = SimpleNamespace(is_mariadb=is_mariadb, server_version_info=version)
    with pytest.raises(ConfigurationError, match="or newer is needed") if refused else nullcontext():
        refuse_old_server(dialect)


def test_a_url_in_a_message_is_left_out() -> None:
    """A URL in an error of env.py is shown up to its scheme only."""
    error = RuntimeError("cannot use 'postgresql+asyncpg://me:secret@host/shop' or redis://:secret@host")
    assert in_full(describe(error, quotes=True)) == "RuntimeError: cannot use 'postgresql+asyncpg://… or redis://…"


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("invalid input for query argument $1: 'geh3im' (an integer is required)", "convert the value"),
        ("cannot insert multiple commands into a prepared statement", "one statement into one op.execute"),
    ],
)
def test_what_only_psycopg_accepts_has_two_remedies(message: str, words: str) -> None:
    """A parameter or a statement is refused by asyncpg: the remedy names the change, and the driver that accepts it."""
    advice = remedy(asyncpg.DataError(message))
    assert words in advice
    assert "postgresql+psycopg://" in advice
    assert SECRET not in advice
