"""The limits of a MySQL or MariaDB session: how long it waits for locks, executes a statement, and may be idle."""

from __future__ import annotations

import math

import sqlalchemy as sa

from ...execution.limits import Limits

COM_SET_OPTION, MULTI_STATEMENTS_OFF = 0x1B, b"\x01\x00"
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
    if getattr(connection.dialect, "is_mariadb", False):
        connection.exec_driver_sql(f"SET SESSION max_statement_time = {limits.statement_timeout_seconds:f}")
    else:
        limits.warn_of_no_statement_timeout("MySQL", revision)
