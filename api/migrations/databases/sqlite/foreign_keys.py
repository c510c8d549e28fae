"""Checks SQLite's foreign keys, which are off while a revision runs, so that `batch_alter_table` can copy tables.

Before COMMIT, the rows that violate them are counted. They cannot be compared, because a copied table numbers its rows
anew, and a table WITHOUT ROWID has no numbers.
"""

from __future__ import annotations

import logging
from collections import Counter

import sqlalchemy as sa

from ...execution.driver_errors import name

log = logging.getLogger(__name__)

Pair = tuple[str, str]
"""A table, and the table that it references."""


class ForeignKeys:
    """The violations before a revision, to compare with those after it."""

    def __init__(self) -> None:
        self._before: dict[str, Counter[Pair] | None] = {}
        self._warned: set[str] = set()

    def remember(self, connection: sa.Connection) -> None:
        """Count before the revision. Leaves out, with one warning, a table that cannot be checked."""
        self._before = {table: _count_if_possible(connection, table) for table in _tables(connection)}
        left_out = {table for table, count in self._before.items() if count is None} - self._warned
        if left_out:
            self._warned |= left_out
            log.warning(
                "Cannot check the foreign keys of %s, so their violations go unnoticed: a referenced column does not "
                "exist, or is not unique",
                ", ".join(sorted(left_out)),
                extra={"event": "foreign_keys_unchecked"},
            )

    def check(self, connection: sa.Connection) -> None:
        """Count again. Raises `InvalidRequestError` of SQLAlchemy if a table has more violations than before."""
        broken: Counter[Pair] = Counter()
        for table in _tables(connection):
            before = self._before.get(table, Counter())
            if before is not None:
                broken += _count(connection, table) - before
        if broken:
            tables = ", ".join(sorted(f"{child} -> {parent}" for child, parent in broken))
            raise sa.exc.InvalidRequestError(
                f"the revision leaves {broken.total()} rows whose foreign key references no row ({tables})"
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
        # SQLITE_ERROR is a mismatch in the schema; other errors (locked, interrupted) are not
        if error.orig is None or name(error.orig) != "SQLITE_ERROR":
            raise
        return None
