"""Translates the errors of drivers and SQLAlchemy into this package's: what failed, whether to retry, how to fix it.

The classes follow PostgreSQL's SQLSTATE table (Appendix A of its documentation) and, for the other databases,
`driver_errors`. A lost connection has no SQLSTATE (asyncpg: InterfaceError, InternalClientError), so its type decides.
"""

from __future__ import annotations

import os
import ssl
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import sqlalchemy.exc

from ..errors import (
    AccessRefused,
    ConfigurationError,
    DatabaseUnreachable,
    DirectConnectionNeeded,
    MigrationError,
    NoConnectionLeft,
    PrivilegeMissing,
    ReadOnlyServer,
    foreign,
)
from ..text.redaction import first_line, server_text, without_literals
from . import driver_errors
from .driver_errors import ErrorKind

_LOST = (OSError, asyncpg.InterfaceError, asyncpg.InternalClientError, asyncpg.PostgresConnectionError)
"""`OSError` includes ConnectionError, socket.gaierror and TimeoutError."""
_UNAVAILABLE = {
    "57P03": "the server is starting up or shutting down",
    "57P01": "the server terminated the session",
    "57P02": "the server crashed and is recovering",
    "53300": "the server has no free connection",
}
_CONTENTION = {
    # outside a revision, only the version and the history table are queried
    "55P03": "another session has locked the version or the history table",
    "40P01": "deadlock with another session",
}
_LOGIN_REFUSED = {
    "28P01": "password authentication failed. To fix: correct user and password in the URL",
    "28000": "the server does not accept this user from this host. To fix: create the role, or allow it in pg_hba.conf",
    "3D000": "the database in the URL does not exist. To fix: create it, or correct its name in the URL",
}
_REFUSED_BY_ASYNCPG = {
    "invalid input for query argument": "asyncpg accepts only the Python type of the column. To fix: convert the value",
    "cannot insert multiple commands into a prepared": "To fix: put one statement into one op.execute",
}
"""The beginnings of messages of asyncpg and the server about what psycopg accepts."""
_BY_KIND: dict[ErrorKind, tuple[type[MigrationError], str]] = {
    ErrorKind.BUSY: (DatabaseUnreachable, "another session holds a conflicting lock"),
    ErrorKind.REFUSED: (
        AccessRefused,
        "the server refuses the login. To fix: check user and password in the URL, and the hosts that the account "
        "allows; if the account or the server requires TLS, add ?ssl-mode=REQUIRED to the URL",
    ),
    ErrorKind.NOT_OPENED: (
        AccessRefused,
        "the file cannot be opened. To fix: check that its folder exists and is writable, and that the file is a "
        "SQLite database",
    ),
    ErrorKind.PRIVILEGE: (
        PrivilegeMissing,
        "the user lacks a privilege. To fix: GRANT it, or set MIGRATION_DATABASE_URL to the user that owns the schema",
    ),
    ErrorKind.READ_ONLY: (ReadOnlyServer, "the database is read-only. To fix: make the file and its folder writable"),
}


def sqlstate(error: BaseException) -> str | None:
    """Return the SQLSTATE of a PostgreSQL error, if any; those of MySQL have other meanings and are ignored."""
    if driver_errors.number(root(error)) is not None:
        return None
    original = getattr(error, "orig", None) or error
    return getattr(original, "sqlstate", None) or getattr(original, "pgcode", None)  # psycopg2's name


def root(error: BaseException) -> BaseException:
    """Return the driver's own exception, without SQLAlchemy's wrappers."""
    if isinstance(error, sqlalchemy.exc.DBAPIError) and error.orig is not None:
        return error.orig.__cause__ or error.orig
    return error


def lost(error: BaseException) -> bool:
    """Whether the connection was lost or is unusable for now, so that the outcome of the statement is unknown."""
    cause = root(error)
    by_driver = driver_errors.error_kind(cause) is ErrorKind.LOST
    by_driver = by_driver or (isinstance(error, sqlalchemy.exc.DBAPIError) and error.connection_invalidated)
    return by_driver or isinstance(cause, _LOST) or sqlstate(error) in _UNAVAILABLE


def contended(error: BaseException) -> bool:
    """Whether a statement failed only because another session held a lock."""
    return sqlstate(error) in _CONTENTION or driver_errors.error_kind(root(error)) is ErrorKind.BUSY


def missing(error: BaseException) -> bool:
    """Whether a table or column does not exist."""
    return sqlstate(error) in {"42P01", "42703"} or driver_errors.error_kind(root(error)) is ErrorKind.MISSING


def translate(error: BaseException, doing: str) -> MigrationError:
    """Return the `MigrationError` for an error; `doing` is a phrase for its message, such as "reading the revision"."""
    if isinstance(error, MigrationError):
        return error
    cause, code = root(error), sqlstate(error) or ""
    if (refused := _refused_by_type(cause)) is not None:
        return refused
    if doing.startswith("connecting") and code in {"42704", "22023", "55P02"}:
        return ConfigurationError(
            f"the server rejected a parameter of the database URL: {_message(cause)}. To fix: remove or correct it"
        )
    return _from_server(error, code, doing)


@asynccontextmanager
async def translated(doing: str) -> AsyncIterator[None]:
    """Raise each error of the block as a `MigrationError`."""
    try:
        yield
    except Exception as error:
        raise translate(error, doing) from error


def _from_server(error: BaseException, code: str, doing: str) -> MigrationError:
    if code in _LOGIN_REFUSED:
        return AccessRefused(f"login refused while {doing}: {_LOGIN_REFUSED[code]}")
    if code == "42501":
        return PrivilegeMissing(
            f"{describe(error)} while {doing}. A role that migrates must own the tables and have CREATE on the schema; "
            "a role that only waits for a job needs SELECT on the version and history tables. To fix: GRANT these, or "
            "set MIGRATION_DATABASE_URL to the role that owns the schema"
        )
    if code == "25006":
        return ReadOnlyServer(
            "the server is read-only, probably a standby. To fix: point MIGRATION_DATABASE_URL at the primary"
        )
    if code in _CONTENTION:
        return DatabaseUnreachable(f"no answer while {doing}: {_CONTENTION[code]}")
    cause = root(error)
    number, explanation = driver_errors.code(cause), driver_errors.explanation(cause)
    if lost(error):
        failure = number if explanation else "no connection"
        unreachable = NoConnectionLeft if code == "53300" else DatabaseUnreachable
        return unreachable(f"{failure} while {doing}: {_UNAVAILABLE.get(code) or _message(cause)}")
    kind = driver_errors.error_kind(cause)
    if kind in _BY_KIND:
        error_class, default = _BY_KIND[kind]
        return error_class(f"{number} while {doing}: {explanation or default}")
    return MigrationError(f"{describe(error)} while {doing}{remedy(error)}")


def _refused_by_type(cause: BaseException) -> MigrationError | None:
    if isinstance(cause, ssl.SSLCertVerificationError):
        return AccessRefused(
            f"the server's certificate does not verify ({cause.verify_message}). To fix: correct sslrootcert (MySQL: "
            "ssl-ca)"
        )
    if isinstance(cause, asyncpg.ClientConfigurationError):
        return ConfigurationError(f"the database URL cannot be used: {_message(cause)}. To fix: correct the URL")
    # PostgreSQL rejects TLS in its protocol; MySQL answers in plain text
    plain_text = isinstance(cause, ssl.SSLError) and cause.reason == "WRONG_VERSION_NUMBER"
    if plain_text or (isinstance(cause, ConnectionError) and "rejected SSL" in str(cause)):
        return AccessRefused(
            "the server does not support TLS, which the URL requires. To fix: enable TLS on the server, or do not "
            "require it in the URL"
        )
    # asyncmy's messages: the first for MySQL 8's authentication, the second for MariaDB's ed25519
    if isinstance(cause, RuntimeError) and "cryptography" in str(cause):
        return ConfigurationError(
            "the server requires an encrypted password, which needs a package. To fix: pip install cryptography, or "
            "use TLS"
        )
    if isinstance(cause, RuntimeError) and "pynacl" in str(cause):
        return ConfigurationError("the account logs in with ed25519, which needs a package. To fix: pip install pynacl")
    # PgBouncer's message; it also closes the connection, so the error looks like a lost connection
    if "statement pooling" in str(cause):
        return DirectConnectionNeeded(
            "the connection goes through a pooler in statement mode, where no lock or transaction outlasts a "
            "statement. To fix: set MIGRATION_DATABASE_URL to the database's direct endpoint (its own port, not the "
            "pooler's)"
        )
    return None


def describe(error: BaseException, *, quotes: bool = False) -> str:
    """Describe an error in one line, without SQL text or values: its name, SQLSTATE and, if that is safe, its message.

    DETAIL, values of class 22 (data exceptions) and literals are left out; `quotes`: the message cannot contain data.
    What is left of the error's own message is marked as `foreign`.
    """
    cause, code = root(error), sqlstate(error)
    name = type(cause).__name__
    if isinstance(cause, sqlalchemy.exc.CompileError):
        return f"{name} (its text is left out because it quotes the value)"
    if code is not None:
        return f"{name} (SQLSTATE {code}): {foreign(server_text(cause, code))}"
    has_statement = isinstance(error, sqlalchemy.exc.StatementError)
    if has_statement and cause is error:
        return f"{name} (its text is left out because it quotes the statement)"
    number = driver_errors.code(cause)
    suffix = f" ({number})" if number else ""
    return f"{name}{suffix}: {_message(cause, quotes=quotes and not has_statement)}"


def remedy(error: BaseException) -> str:
    """Return `. `, the cause and the remedy if the error's own message lacks them; else an empty string."""
    code, cause = sqlstate(error) or "", root(error)
    if code == "53200" and "shared memory" in str(cause):
        return (
            ". The server's lock table is full. To fix: raise max_locks_per_transaction and restart the server, or "
            "change fewer tables in one revision"
        )
    if code == "53200":
        return ". The server has no memory left. To fix: give it more memory before the next attempt"
    if code == "53100" or driver_errors.error_kind(cause) is ErrorKind.FULL:
        return ". The server's disk is full. To fix: free or add disk space before the next attempt"
    if code == "42710" and str(cause).startswith("type "):
        return (
            ". An earlier revision probably created the type; Alembic remembers the types that it creates only within "
            "one process. To fix: declare the type with postgresql.ENUM(…, create_type=False) in this revision, or "
            "create it with checkfirst=True"
        )
    for beginning, advice in _REFUSED_BY_ASYNCPG.items():
        if str(cause).startswith(beginning):
            return f". {advice}, or run the revisions on psycopg: MIGRATION_DATABASE_URL=postgresql+psycopg://…"
    if driver_errors.number(cause) == 1665:
        return (
            ". The server's binlog_format is STATEMENT, which cannot log row changes at READ COMMITTED. To fix: set it "
            "to ROW or MIXED"
        )
    return ""


def where(error: BaseException, path: str | None) -> str:
    """Return `, at file:line` of the innermost frame in the file `path`; an empty string if there is none."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if path is not None and f.filename.endswith(path)]
    return f", at {frames[-1].filename.rpartition('/')[2]}:{frames[-1].lineno}" if frames else ""


def _message(error: BaseException, *, quotes: bool = False) -> str:
    if isinstance(error, TimeoutError) and not str(error):
        return "no answer in time"
    if driver_errors.error_kind(error) is ErrorKind.LOST:
        # the driver's message contains host and user
        return driver_errors.explanation(error) or "the server does not answer, or has closed the connection"
    text = driver_errors.message(error).strip()
    # asyncio's message quotes the address; callers name host and port as the URL does
    if isinstance(error, OSError) and not isinstance(error, asyncpg.PostgresError):
        return os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or type(error).__name__
    if not text:
        return type(error).__name__
    if driver_errors.error_kind(error) is ErrorKind.SYNTAX:
        return "its text is left out because it quotes the statement"
    return foreign(first_line(text if quotes else without_literals(text)))
