"""SQLite's foreign keys, which are off while a revision runs, or no table could be copied (`batch_alter_table`).

What a revision leaves pointing at nothing is therefore counted before its COMMIT. Counted and not compared row by row:
a copied table numbers its rows anew, and one WITHOUT ROWID has no numbers.
"""

from __future__ import annotations

import logging
from collections import Counter

import sqlalchemy as sa

from ...execution.driver_errors import name

log = logging.getLogger(__name__)

Pair = tuple[str, str]
"""A table, and the one that its rows point into."""


class ForeignKeys:
    """What is broken before a revision, which is not its fault, to be compared with what is broken after."""

    def __init__(self) -> None:
        self._before: dict[str, Counter[Pair] | None] = {}
        self._warned: set[str] = set()

    def remember(self, connection: sa.Connection) -> None:
        """Count before the revision. A table that cannot be checked is left out, with one warning."""
        self._before = {table: _count_if_possible(connection, table) for table in _tables(connection)}
        left_out = {table for table, count in self._before.items() if count is None} - self._warned
        if left_out:
            self._warned |= left_out
            log.warning(
                "Foreign keys of %s cannot be checked, and what revisions break there goes unnoticed: the columns they "
                "point at are not there, or not unique",
                ", ".join(sorted(left_out)),
                extra={"event": "foreign_keys_unchecked"},
            )

    def check(self, connection: sa.Connection) -> None:
        """Count again.

        Raises:
            sqlalchemy.exc.InvalidRequestError: more rows of a table point at nothing than before.
        """
        broken: Counter[Pair] = Counter()
        for table in _tables(connection):
            before = self._before.get(table, Counter())
            if before is not None:
                broken += _count(connection, table) - before
        if broken:
            tables = ", ".join(sorted(f"{child} -> {parent}" for child, parent in broken))
            raise sa.exc.InvalidRequestError(
                f"{broken.total()} rows are left whose foreign key points at nothing ({tables})"
            )


def _tables(connection: sa.Connection) -> list[str]:
    return list(connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'table'").scalars())


def _count(connection: sa.Connection, table: str) -> Counter[Pair]:
    quoted = table.replace('"', '""')
    return Counter((row[0], row[2]) for row in connection.exec_driver_sql(f'PRAGMA foreign_key_check("{quoted}")'))


def _count_if_possible(connection: sa.Connection, table: str) -> Counter[Pair] | None:
    try:
        return _count(connection, table)
    except sa.exc.OperationalError as error:
        # a mismatch is in the schema; whatever else there is, locked or interrupted, says nothing about it
        if error.orig is None or name(error.orig) != "SQLITE_ERROR":
            raise
        return None
