"""The limits of a MySQL or MariaDB session, whichever driver opened it.

They are how long it waits for locks, executes a statement, and may be idle; and one statement at a time.
"""

from __future__ import annotations

import math
from typing import Any

import sqlalchemy as sa
from sqlalchemy.util import await_only

from ...errors import ForeignConnection
from ...execution.limits import Limits

_COM_SET_OPTION, _MULTI_STATEMENTS_OFF = 0x1B, b"\x01\x00"
"""A command of the client/server protocol, and its argument."""


def whole(seconds: float) -> int:
    """Return whole seconds, as MySQL takes them; 0, no limit, is its maximum of a year."""
    return math.ceil(seconds) or 31_536_000


def longest_idle(limits: Limits) -> int:
    """Return how many seconds the session may be idle; no limit is a week."""
    return math.ceil(limits.idle_seconds) or 7 * 86400


def set_limits(connection: sa.Connection, limits: Limits, revision: str) -> None:
    """Limit how long `revision` waits for a table or row, and on MariaDB how long one statement takes."""
    wait = whole(limits.lock_timeout_seconds)
    connection.exec_driver_sql(f"SET SESSION lock_wait_timeout = {wait}, innodb_lock_wait_timeout = {wait}")
    if is_mariadb(connection):
        connection.exec_driver_sql(f"SET SESSION max_statement_time = {limits.statement_timeout_seconds:f}")
    else:
        limits.warn_of_no_statement_timeout("MySQL", revision)


def refuse_several_statements(connection: sa.Connection) -> None:
    """Let the server refuse several statements in one query, of which some drivers would ignore a later error.

    Besides, only the first one of them shows whether it commits. Raises `ForeignConnection` for an unknown driver.
    """
    driver: Any = connection.connection.driver_connection
    name = connection.dialect.driver
    if name == "mysqldb":
        driver.set_server_option(1)  # MYSQL_OPTION_MULTI_STATEMENTS_OFF
    elif name == "pymysql":
        driver._execute_command(_COM_SET_OPTION, _MULTI_STATEMENTS_OFF)
        driver._read_packet()
    elif name in {"asyncmy", "aiomysql"}:
        await_only(driver._execute_command(_COM_SET_OPTION, _MULTI_STATEMENTS_OFF))
        await_only(driver.read_packet() if name == "asyncmy" else driver._read_packet())
    else:
        raise ForeignConnection(
            f"env.py opens its connection with the driver {name}, which is not supported. To fix: use asyncmy, "
            "aiomysql, pymysql or mysqldb"
        )


def is_mariadb(connection: sa.Connection) -> bool:
    """Whether the server is MariaDB."""
    return bool(getattr(connection.dialect, "is_mariadb", False))
