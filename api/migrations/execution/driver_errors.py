"""Classifies the errors of the MySQL and SQLite drivers, which have no useful SQLSTATE.

Numbers are from the "Server Error Message Reference" of the MySQL manual, names from "Result and Error Codes" of
SQLite's. Neither driver is imported, because it may not be installed.
"""

from __future__ import annotations

import re
from enum import Enum, auto


class ErrorKind(Enum):
    """The kinds of errors that are handled differently."""

    LOST = auto()
    """The session was lost, or the server accepts no sessions or no writes for now; connect again later."""
    BUSY = auto()
    MISSING = auto()
    REFUSED = auto()
    NOT_OPENED = auto()
    PRIVILEGE = auto()
    READ_ONLY = auto()
    FULL = auto()
    SYNTAX = auto()


_OTHER_AUTHENTICATION = {1251, 1275, 1524, 2059, 2061}
_MYSQL_NUMBERS = {
    ErrorKind.LOST: {1040, 1053, 1077, 1079, 1152, 1153, 1158, 1159, 1160, 1161, 1184, 1203, 1226, 1290, 1836, 1927}
    | {3032, 3169, 4031, *set(range(2000, 2062)) - _OTHER_AUTHENTICATION},
    ErrorKind.BUSY: {1205, 1213, 3572},
    ErrorKind.MISSING: {1054, 1146},
    ErrorKind.REFUSED: {1044, 1045, 1049, 1129, 1130, 1698, 1820, 1862, 3118, 3159, 3879, 3955, 4150, 4151}
    | _OTHER_AUTHENTICATION,
    ErrorKind.PRIVILEGE: {1142, 1143, 1227, 1370},
    ErrorKind.READ_ONLY: {1792, 3989},
    ErrorKind.FULL: {1021, 1037, 1038, 1041, 1114},
    ErrorKind.SYNTAX: {1064, 1149},
}
_READ_ONLY_OPTION = 1290
"""Also the number for other options that forbid a statement, such as --secure-file-priv."""
_AT_A_LIMIT = "the account has reached one of its limits (such as MAX_USER_CONNECTIONS)"
_NO_SUCH_METHOD = (
    "the driver or the server does not support the account's authentication method. To fix: give the account "
    "caching_sha2_password (MySQL) or mysql_native_password (MariaDB)"
)
_READ_ONLY = (
    "the server is read-only: it is a replica, or a failover is in progress. To fix: point MIGRATION_DATABASE_URL at "
    "the primary"
)
_EXPIRED = (
    "the account's password has expired. To fix: ALTER USER … IDENTIFIED BY …, then put the new password into the URL"
)
_LOCKED = "the account is locked. To fix: ALTER USER … ACCOUNT UNLOCK"
_BLOCKED = (
    "the account is blocked after failed logins. To fix: correct the password in the URL, then run ALTER USER … "
    "ACCOUNT UNLOCK (MySQL) or FLUSH PRIVILEGES (MariaDB)"
)
_NO_SUCH_DATABASE = (
    "the database in the URL does not exist, or this user has no privilege on it. To fix: create it, and GRANT the "
    "user privileges on it"
)
_EXPLANATIONS = {
    1040: "the server has no free connection",
    1044: _NO_SUCH_DATABASE,
    1049: "the database in the URL does not exist. To fix: create it, or correct its name in the URL",
    1053: "the server is shutting down",
    1129: "the server blocked this host after too many failed connections. To fix: run 'mysqladmin flush-hosts' there",
    1130: "the server accepts no user from this host. To fix: CREATE USER … with this host or '%'",
    1203: _AT_A_LIMIT,
    1226: _AT_A_LIMIT,
    1290: _READ_ONLY,
    1792: "transactions are read-only here. To fix: SET GLOBAL transaction_read_only (MariaDB: tx_read_only) = OFF",
    1820: _EXPIRED,
    1836: _READ_ONLY,
    1862: _EXPIRED,
    1927: "the session was killed",
    3032: "the server is in offline mode. To fix: SET GLOBAL offline_mode = OFF when its maintenance is over",
    3118: _LOCKED,
    3159: "the server accepts encrypted connections only. To fix: add ?ssl-mode=REQUIRED to the URL",
    3169: "the session was killed",
    3879: _NO_SUCH_DATABASE,
    3955: _BLOCKED,
    3989: "the database is read-only. To fix: ALTER DATABASE … READ ONLY = 0",
    4031: "the server terminated the session because it was idle for longer than its wait_timeout",
    4150: _BLOCKED,
    4151: _LOCKED,
    **dict.fromkeys(_OTHER_AUTHENTICATION, _NO_SUCH_METHOD),
}
_QUOTES_NAMES = frozenset(
    {1048, 1050, 1051, 1054, 1060, 1061, 1067, 1072, 1091, 1146, 1170, 1264, 1265, 1364, 1406, 3819}
)
_DUPLICATE = 1062
_NAME = re.compile(r"'([\w.$ ]+)'")
_VALUES = re.compile(r"'.*'", re.DOTALL)
_KEY_AT_END = re.compile(r" for key '[\w.$ ]+'$")
_COLUMN_AT_END = re.compile(r" for column '[\w.$ ]+' at row \d+$")
_UNDECODED = re.compile(r"UTF-8 column(?: '([\w.$ ]+)'(?= with text '))?.*", re.DOTALL)
"""SQLite's message about text that is not UTF-8; it quotes the expression if the column has no name."""
_BY_NUMBER = {number: kind for kind, numbers in _MYSQL_NUMBERS.items() for number in numbers}
_BY_SQLITE_NAME = {
    "SQLITE_BUSY": ErrorKind.BUSY,
    "SQLITE_CANTOPEN": ErrorKind.NOT_OPENED,
    "SQLITE_NOTADB": ErrorKind.NOT_OPENED,
    "SQLITE_PERM": ErrorKind.PRIVILEGE,
    "SQLITE_READONLY": ErrorKind.READ_ONLY,
    "SQLITE_FULL": ErrorKind.FULL,
}


def number(error: BaseException) -> int | None:
    """Return MySQL's error number; None for another driver's error."""
    if not type(error).__module__.startswith(("asyncmy", "pymysql", "MySQLdb")):
        return None
    first = error.args[0] if error.args else None
    return first if isinstance(first, int) else None


def name(error: BaseException) -> str | None:
    """Return SQLite's name of the error without its extension: `SQLITE_BUSY` for `SQLITE_BUSY_SNAPSHOT`."""
    if not any(kind.__module__ == "sqlite3" for kind in type(error).__mro__):
        return None
    return "_".join(str(getattr(error, "sqlite_errorname", "SQLITE_ERROR")).split("_")[:2])


def code(error: BaseException) -> str | None:
    """Return MySQL's number or SQLite's name of the error, for people."""
    mysql_number = number(error)
    return f"error {mysql_number}" if mysql_number is not None else name(error)


def message(error: BaseException) -> str:
    """Return the error's text without its number, and without quoted values; quoted names stay."""
    mysql_number = number(error)
    if mysql_number is None or len(error.args) < 2:
        text = str(error)
        return _UNDECODED.sub(lambda found: f"UTF-8 column `{found[1] or '…'}`", text) if name(error) else text
    text = str(error.args[1])
    if mysql_number in _QUOTES_NAMES:
        return _NAME.sub(r"`\1`", text)
    named = (_KEY_AT_END if mysql_number == _DUPLICATE else _COLUMN_AT_END).search(text)
    value, end = (text[: named.start()], named[0]) if named else (text, "")
    # greedy and across lines, because quotation marks and line breaks in a value are not escaped
    return _VALUES.sub("'…'", value) + _NAME.sub(r"`\1`", end)


def explanation(error: BaseException) -> str | None:
    """Return the cause and the remedy of a MySQL error whose own message lacks them."""
    return _EXPLANATIONS.get(number(error) or 0)


def error_kind(error: BaseException) -> ErrorKind | None:
    """Return the kind of the error; None if it has none of these, or is another driver's."""
    mysql_number = number(error)
    if mysql_number is not None:
        other_option = mysql_number == _READ_ONLY_OPTION and "read-only" not in str(error.args[1:])
        return None if other_option else _BY_NUMBER.get(mysql_number)
    sqlite_name = name(error)
    if sqlite_name == "SQLITE_ERROR":
        text = str(error)
        missing = text.startswith(("no such table", "no such column"))
        return ErrorKind.MISSING if missing else ErrorKind.SYNTAX if "syntax error" in text or "token" in text else None
    return _BY_SQLITE_NAME.get(sqlite_name or "")
