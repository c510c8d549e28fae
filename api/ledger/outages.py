"""Which errors mean that the database cannot serve for now, and not that the statement is wrong."""

from __future__ import annotations

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

# PostgreSQL, classes: 08 connection, 28 login, 3D no such database, 53 out of resources, 57 shutdown or cancelled.
# States: read-only standby, serialization failure, deadlock, lock not available.
_CLASSES = frozenset({"08", "28", "3D", "53", "57"})
_STATES = frozenset({"25006", "40001", "40P01", "55P03"})

# MySQL and MariaDB, by number, because their SQLSTATE is mostly HY000.
_NUMBERS = frozenset(
    {
        *{1040, 1203, 1226, 1129, 1015, 1021, 1037, 1038, 1041, 1114, 1206},  # out of connections, disk or memory
        *{1042, 1043, 1053, 1158, 1159, 1160, 1161, 1184, 1927, 4031},  # connection lost or refused, shutdown
        *{1044, 1045, 1049, 1698, 3118, 3159, 3879, 4151},  # login: wrong, locked, without TLS, no such database
        *{1130, 1251, 1524, 1820, 1862, 3955, 4150},  # login: host, method, expired password, blocked after failures
        *{1205, 1213, 3572},  # lock wait timeout, deadlock
        *{1317, 1969, 3024},  # interrupted, statement timeout
        *{1290, 1792, 1836, 3032, 3989},  # read only, offline
        *range(2000, 2062),  # the client's own: cannot connect, connection lost
    }
)

# SQLite, primary codes: busy, locked, no memory, read only, I/O, full, cannot open, protocol.
# By number, because a Python without SQLite must serve the other databases.
_RESULTS = frozenset({5, 6, 7, 8, 10, 13, 14, 15})


def means_away(error: DBAPIError | PoolTimeout | OSError) -> bool:
    """Return whether the same request may succeed later."""
    if not isinstance(error, DBAPIError) or error.connection_invalidated:
        return True
    original = error.orig
    if any(kind.__module__ == "sqlite3" for kind in type(original).__mro__):
        return getattr(original, "sqlite_errorcode", 0) & 0xFF in _RESULTS
    number = _number(original)
    if number is not None:
        return number in _NUMBERS
    state = _sqlstate(original)
    return state[:2] in _CLASSES or state in _STATES


def means_deadlock(error: BaseException) -> bool:
    """Return whether the database rolled back the transaction because of a deadlock."""
    original = getattr(error, "orig", None)
    return _number(original) == 1213 or _sqlstate(original) == "40P01"


def reason(error: BaseException) -> str:
    """Return the error for logs: the database's code, or the name of the exception."""
    original = getattr(error, "orig", None)
    number = _number(original)
    code = getattr(original, "sqlite_errorname", None) or (f"MySQL {number}" if number else _sqlstate(original))
    return str(code or type(error).__name__)


def _number(original: BaseException | None) -> int | None:
    """Return the number of a MySQL error; None for errors of asyncpg and SQLite, which begin with text."""
    first = original.args[0] if original is not None and original.args else None
    return first if isinstance(first, int) else None


def _sqlstate(original: BaseException | None) -> str:
    return str(getattr(original, "sqlstate", None) or "")
