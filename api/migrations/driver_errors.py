"""What the errors of the MySQL and SQLite drivers mean; they have no SQLSTATE to go by.

Numbers from "Server Error Message Reference" of the MySQL manual, names from "Result and Error Codes" of SQLite's.
Neither driver is imported: it may not be installed.
"""

from __future__ import annotations

import re
from enum import Enum, auto


class Sort(Enum):
    """What can be done about it."""

    LOST = auto()
    BUSY = auto()
    MISSING = auto()
    REFUSED = auto()
    NOT_OPENED = auto()
    PRIVILEGE = auto()
    READ_ONLY = auto()
    FULL = auto()
    SYNTAX = auto()


_MYSQL = {
    Sort.LOST: {
        1040,
        1053,
        1077,
        1079,
        1152,
        1158,
        1159,
        1160,
        1161,
        1184,
        1203,
        1226,
        1927,
        3169,
        4031,
        *range(2000, 2062),
    },
    Sort.BUSY: {1205, 1213, 3572},
    Sort.MISSING: {1054, 1146},
    Sort.REFUSED: {1044, 1045, 1049, 1129, 1130, 1251, 1698, 3118, 3159},
    Sort.PRIVILEGE: {1142, 1143, 1227, 1370},
    Sort.READ_ONLY: {1290, 1792, 1836, 3989},
    Sort.FULL: {1021, 1037, 1038, 1041, 1114},
    Sort.SYNTAX: {1064, 1149},
}
_QUOTES_NAMES = frozenset({1048, 1050, 1051, 1054, 1060, 1061, 1072, 1091, 1146, 1264, 1364, 1406})
_NAME = re.compile(r"'([\w.$ ]+)'")
_VALUES = re.compile(r"'.*'", re.DOTALL)
_BY_NUMBER = {number: sort for sort, numbers in _MYSQL.items() for number in numbers}
_BY_NAME = {
    "SQLITE_BUSY": Sort.BUSY,
    "SQLITE_CANTOPEN": Sort.NOT_OPENED,
    "SQLITE_NOTADB": Sort.NOT_OPENED,
    "SQLITE_PERM": Sort.PRIVILEGE,
    "SQLITE_READONLY": Sort.READ_ONLY,
    "SQLITE_FULL": Sort.FULL,
}


def number(error: BaseException) -> int | None:
    """MySQL's error number, if it is an error of its driver."""
    if not type(error).__module__.startswith(("asyncmy", "pymysql")):
        return None
    first = error.args[0] if error.args else None
    return first if isinstance(first, int) else None


def name(error: BaseException) -> str | None:
    """SQLite's name of the error, without its extension (`SQLITE_BUSY` of `SQLITE_BUSY_SNAPSHOT`)."""
    if not any(kind.__module__ == "sqlite3" for kind in type(error).__mro__):
        return None
    return "_".join(str(getattr(error, "sqlite_errorname", "SQLITE_ERROR")).split("_")[:2])


def code(error: BaseException) -> str | None:
    """What the server or library calls it, for people."""
    known = number(error)
    return f"error {known}" if known is not None else name(error)


def message(error: BaseException) -> str:
    """Its text without its number; of MySQL's without what it quotes, unless that can only be a name."""
    known = number(error)
    if known is None or len(error.args) < 2:
        return str(error)
    text = str(error.args[1])
    # greedy and over lines, because a quotation mark or a line break within a value is left as it is
    return _NAME.sub(r"`\1`", text) if known in _QUOTES_NAMES else _VALUES.sub("'…'", text)


def sort(error: BaseException) -> Sort | None:
    """What can be done about it; None where it is another driver's, or just a mistake."""
    known = number(error)
    if known is not None:
        return _BY_NUMBER.get(known)
    what = name(error)
    if what == "SQLITE_ERROR":
        text = str(error)
        missing = text.startswith(("no such table", "no such column"))
        return Sort.MISSING if missing else Sort.SYNTAX if "syntax error" in text or "token" in text else None
    return _BY_NAME.get(what or "")
