"""How a connection to a SQLite file begins a transaction, waits for another writer, and is interrupted."""

from __future__ import annotations

from typing import Any

LONGEST_WAIT_SECONDS = 5.0
INSTRUCTIONS = 20_000
"""Of SQLite's virtual machine, between two checks for an abort: some hundred checks a second."""


def begin(connection: Any, how: str = "BEGIN IMMEDIATE") -> None:
    """Begin a transaction on a connection of the driver, unless one is open or the connection is in autocommit.

    Python's driver begins one only at the first change of a row, so earlier DDL would be committed alone. IMMEDIATE,
    because a transaction that has read cannot start to write while another one writes.
    """
    # None is autocommit
    if connection.isolation_level is not None and not connection.driver_connection.in_transaction:
        connection.cursor().execute(how)


def busy_seconds(seconds: float) -> float:
    """Return how long SQLite waits for another writer; briefly, because nothing interrupts it, and the run retries."""
    return min(seconds, LONGEST_WAIT_SECONDS) or LONGEST_WAIT_SECONDS
