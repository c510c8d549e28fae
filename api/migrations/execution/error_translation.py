"""Foreign errors, translated in one place: what failed, may it be tried again, what should a person do.

The classes follow PostgreSQL's SQLSTATE table (Appendix A of its documentation); `driver_errors` knows the other
databases'. A lost connection comes without any SQLSTATE (asyncpg: InterfaceError, InternalClientError), so "lost" is
decided by type first.
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
    PrivilegeMissing,
    ReadOnlyServer,
)
from ..text.redaction import first_line, server_text, without_literals
from . import driver_errors
from .driver_errors import Sort

_LOST = (
    OSError,  # includes ConnectionError, socket.gaierror and TimeoutError
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
)
_TRY_AGAIN = {
    "57P03": "the server is starting up or shutting down",
    "57P01": "the server terminated the session",
    "57P02": "the server crashed and is recovering",
    "53300": "the server has no free connection",
}
_TABLE_LOCKED = {
    # outside a revision, where this package's tables are the only ones that it queries
    "55P03": "another session has locked the version or the history table",
    "40P01": "deadlock with another session",
}
_CONTENTION = {"55P03", "40P01"}
"""lock_not_available and deadlock_detected: nobody did anything wrong, somebody else was there first."""
_MISSING = {"42P01", "42703"}
_SAID_NO = {
    "28P01": "password authentication failed. To fix: correct user and password in the URL",
    "28000": "the server does not accept this user from this host. To fix: create the role, or allow it in pg_hba.conf",
    "3D000": "the database in the URL does not exist. To fix: create it, or correct its name in the URL",
}
_REMEDIES = {
    "53100": "The server's disk is full. To fix: free or add disk space before the next attempt",
    "53200": "The server has no memory left. To fix: give it more memory before the next attempt",
}
_SORTS: dict[Sort, tuple[type[MigrationError], str]] = {
    Sort.BUSY: (DatabaseUnreachable, "another session holds a conflicting lock"),
    Sort.REFUSED: (
        AccessRefused,
        "the server refuses the login. To fix: check user and password in the URL, and the hosts that the account "
        "allows; if the account or the server requires TLS, add ?ssl-mode=REQUIRED to the URL",
    ),
    Sort.NOT_OPENED: (
        AccessRefused,
        "the file cannot be opened. To fix: check that its folder exists and is writable, and that the file is a "
        "SQLite database",
    ),
    Sort.PRIVILEGE: (
        PrivilegeMissing,
        "the user lacks a privilege. To fix: GRANT it, or set MIGRATION_DATABASE_URL to the user that owns the schema",
    ),
    Sort.READ_ONLY: (
        ReadOnlyServer,
        "the database is read-only. To fix: make the file and its folder writable",
    ),
}
_EXISTS = (
    "An earlier revision probably created the type; Alembic remembers the types that it creates only within one "
    "process. To fix: declare the type with postgresql.ENUM(…, create_type=False) in this revision, or create it with "
    "checkfirst=True"
)
_LOCK_TABLE_FULL = (
    "The server's lock table is full. To fix: raise max_locks_per_transaction and restart the server, or change fewer "
    "tables in one revision"
)
_STATEMENT_BINLOG = (
    "The server's binlog_format is STATEMENT, which cannot log row changes at READ COMMITTED. To fix: set it to ROW or "
    "MIXED"
)


def sqlstate(error: BaseException) -> str | None:
    """The SQLSTATE of an error of PostgreSQL's, where it has one; MySQL's mean other things, and it has its numbers."""
    if driver_errors.number(root(error)) is not None:
        return None
    original = getattr(error, "orig", None) or error
    return getattr(original, "sqlstate", None)


def root(error: BaseException) -> BaseException:
    """The driver's own exception below SQLAlchemy's wrappers."""
    if isinstance(error, sqlalchemy.exc.DBAPIError) and error.orig is not None:
        return error.orig.__cause__ or error.orig
    return error


def lost(error: BaseException) -> bool:
    """Whether the connection is gone, or of no use for now, so that nothing can be concluded about what was done."""
    cause = root(error)
    by_driver = driver_errors.sort(cause) is Sort.LOST
    return isinstance(cause, _LOST) or (sqlstate(error) or "") in _TRY_AGAIN or by_driver


def contended(error: BaseException) -> bool:
    """Whether a statement only lacked a lock that somebody else had."""
    return sqlstate(error) in _CONTENTION or driver_errors.sort(root(error)) is Sort.BUSY


def missing(error: BaseException) -> bool:
    """Whether a table or column is not there."""
    return sqlstate(error) in _MISSING or driver_errors.sort(root(error)) is Sort.MISSING


def translate(error: BaseException, doing: str) -> MigrationError:
    """The `MigrationError` for a driver's error raised while `doing` something (a phrase: "reading the revision").

    A `MigrationError` is returned as it is.
    """
    if isinstance(error, MigrationError):
        return error
    cause, code = root(error), sqlstate(error) or ""
    refused = _refused_without_code(cause)
    if refused is not None:
        return refused
    if doing == "connecting" and code in {"42704", "22023", "55P02"}:
        return ConfigurationError(
            f"the server rejected a parameter of the database URL: {_plain(cause)}. To fix: remove or correct it"
        )
    return _answered(error, code, doing)


@asynccontextmanager
async def translated(doing: str) -> AsyncIterator[None]:
    """Raise each error of the block as a `MigrationError`."""
    try:
        yield
    except Exception as error:
        raise translate(error, doing) from error


def _answered(error: BaseException, code: str, doing: str) -> MigrationError:
    if code in _SAID_NO:
        return AccessRefused(_SAID_NO[code])
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
    if code in _TABLE_LOCKED:
        return DatabaseUnreachable(f"no answer while {doing}: {_TABLE_LOCKED[code]}")
    cause = root(error)
    number, words = driver_errors.code(cause), driver_errors.words(cause)
    if lost(error):
        what = number if words else "no connection"
        return DatabaseUnreachable(f"{what} while {doing}: {_TRY_AGAIN.get(code) or _plain(cause)}")
    sort = driver_errors.sort(cause)
    if sort in _SORTS:
        kind, what = _SORTS[sort]
        return kind(f"{number} while {doing}: {words or what}")
    return MigrationError(f"{describe(error)} while {doing}{remedy(error)}")


def _refused_without_code(cause: BaseException) -> MigrationError | None:
    if isinstance(cause, ssl.SSLCertVerificationError):
        return AccessRefused(
            f"the server's certificate does not verify ({cause.verify_message}). To fix: correct sslrootcert (MySQL: "
            "ssl-ca)"
        )
    if isinstance(cause, asyncpg.ClientConfigurationError):
        return ConfigurationError(f"the database URL cannot be used: {_plain(cause)}. To fix: correct the URL")
    # asyncpg is told so by PostgreSQL; MySQL just goes on without TLS
    plain = isinstance(cause, ssl.SSLError) and cause.reason == "WRONG_VERSION_NUMBER"
    if plain or (isinstance(cause, ConnectionError) and "rejected SSL" in str(cause)):
        return AccessRefused(
            "the server does not support TLS, which the URL requires. To fix: enable TLS on the server, or do not "
            "require it in the URL"
        )
    # asyncmy's own words: the first is for MySQL 8's way of authentication, the second for MariaDB's ed25519
    if isinstance(cause, RuntimeError) and "cryptography" in str(cause):
        return ConfigurationError(
            "the server requires an encrypted password, which needs a package. To fix: pip install cryptography, or "
            "use TLS"
        )
    if isinstance(cause, RuntimeError) and "pynacl" in str(cause):
        return ConfigurationError("the account logs in with ed25519, which needs a package. To fix: pip install pynacl")
    # PgBouncer's own words; it also closes the connection, which looks like one that was lost
    if "statement pooling" in str(cause):
        return DirectConnectionNeeded(
            "the connection goes through a pooler in statement mode, where no lock or transaction outlasts a "
            "statement. To fix: set MIGRATION_DATABASE_URL to the database's direct endpoint (its own port, not the "
            "pooler's)"
        )
    return None


def describe(error: BaseException, *, quotes: bool = False) -> str:
    """One line about an error without SQL text or values: its name, SQLSTATE and, where that is safe, its message.

    The value that a message of class 22 (data exceptions) quotes is left out; so is DETAIL always, and every literal,
    unless `quotes` says that no data can be in it.
    """
    cause, code = root(error), sqlstate(error)
    name = type(cause).__name__
    if isinstance(cause, sqlalchemy.exc.CompileError):
        return f"{name} (its text is left out because it quotes the value)"
    if isinstance(error, sqlalchemy.exc.StatementError) and code is None:
        if cause is error:
            return f"{name} (its text is left out because it quotes the statement)"
        return f"{name}{_coded(cause)}: {_plain(cause)}"
    if code is None:
        return f"{name}{_coded(cause)}: {_plain(cause, quotes=quotes)}"
    return f"{name} (SQLSTATE {code}): {server_text(cause, code)}"


def remedy(error: BaseException) -> str:
    """`. `, the cause and what an operator can do, where the server ran out of something; else empty."""
    code = sqlstate(error) or ""
    if code == "53200" and "shared memory" in str(root(error)):
        return f". {_LOCK_TABLE_FULL}"
    if code == "42710" and str(root(error)).startswith("type "):
        return f". {_EXISTS}"
    if driver_errors.number(root(error)) == 1665:
        return f". {_STATEMENT_BINLOG}"
    if driver_errors.sort(root(error)) is Sort.FULL:
        code = "53100"
    return f". {_REMEDIES[code]}" if code in _REMEDIES else ""


def where(error: BaseException, path: str | None) -> str:
    """`, at file:line` of the innermost frame in a revision's file; empty where there is none."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if path is not None and f.filename.endswith(path)]
    return f", at {frames[-1].filename.rpartition('/')[2]}:{frames[-1].lineno}" if frames else ""


def _plain(error: BaseException, *, quotes: bool = False) -> str:
    if isinstance(error, TimeoutError) and not str(error):
        return "no answer in time"
    if driver_errors.sort(error) is Sort.LOST:
        # its own names host and user
        return driver_errors.words(error) or "the server does not answer, or has closed the connection"
    text = driver_errors.message(error).strip()
    # the operating system's errors name host and port of the URL
    if isinstance(error, OSError) and not isinstance(error, asyncpg.PostgresError):
        number = error.errno or 0
        return os.strerror(number) if number > 0 else error.strerror or type(error).__name__
    if not text:
        return type(error).__name__
    if driver_errors.sort(error) is Sort.SYNTAX:
        return "its text is left out because it quotes the statement"
    return first_line(text if quotes else without_literals(text))


def _coded(error: BaseException) -> str:
    code = driver_errors.code(error)
    return f" ({code})" if code else ""
