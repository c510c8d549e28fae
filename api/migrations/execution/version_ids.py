"""Checks that the version table can store the ids that a request writes.

Alembic creates the column as VARCHAR(32), and writes the id at the end of the revision. If the id is too long,
PostgreSQL rolls the revision back, and MySQL leaves it half applied; SQLite enforces no length.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..errors import ConfigurationError
from ..text.encoding import codec, holds
from .driver_errors import number
from .error_translation import root, sqlstate

LONGEST_ID = 32
"""The length of Alembic's own column, in characters."""

WIDENS = re.compile(r"version_num|version_table_impl")
"""An `env.py` or a revision that changes the column's size mentions one of these."""

_ALTER = {
    "postgresql": "ALTER TABLE {} ALTER COLUMN version_num TYPE varchar(128)",
    "mysql": "ALTER TABLE {} MODIFY version_num varchar(128) NOT NULL",
}
_WAYS_OUT = (
    "shorten the id ('revision' in its file, and each 'down_revision' that names it), or widen the column version_num "
    "of the version table before the next run"
)
_DATA_TOO_LONG = 1406
_CREATE = "CREATE TABLE {} (version_num varchar(128) NOT NULL PRIMARY KEY)"


@dataclass(frozen=True)
class IdColumn:
    """The column `version_num`: its table's quoted name, its length in characters (None: unlimited), its encoding."""

    table: str
    dialect: str
    length: int | None
    encoding: str
    exists: bool = True

    @classmethod
    def of(cls, table: str, dialect: str, encoding: str, sizes: Sequence[int | None]) -> IdColumn:
        """Return the column in the catalog (`sizes`), or the one that Alembic will create.

        An `env.py` that was executed in this process may have changed the size that Alembic uses.
        """
        if sizes:
            return cls(table, dialect, sizes[0], encoding)
        from alembic.runtime.migration import MigrationContext

        kind = MigrationContext.configure(dialect_name=dialect)._version.c.version_num.type
        return cls(table, dialect, getattr(kind, "length", None), encoding, exists=False)


def doubtful(ids: Iterable[str]) -> tuple[str, ...]:
    """Return those of `ids` that Alembic's own column may not be able to store."""
    return tuple(each for each in ids if len(each) > LONGEST_ID or not each.isascii())


def refuse(ids: Iterable[str], column: IdColumn) -> None:
    """Raise `ConfigurationError` with a remedy unless `column` can store each of `ids`."""
    for each in ids:
        if column.length is not None and len(each) > column.length:
            state = "holds" if column.exists else "will be created by Alembic and hold"
            sql = (_ALTER[column.dialect] if column.exists else _CREATE).format(column.table)
            raise ConfigurationError(
                f"revision id {each} has {len(each)} characters, and {column.table}.version_num {state} "
                f"{column.length}. To fix: {_WAYS_OUT}: {sql};"
            )
        if codec(column.encoding) and not holds(each, (column.encoding,)):
            raise ConfigurationError(
                f"revision id {each} has a character that {column.table}.version_num cannot store (its encoding is "
                f"{column.encoding}). To fix: use only ASCII letters, digits and _ in the id"
            )


def explained(error: BaseException, revision: str) -> str:
    """Return `. ` and a remedy if the error says that a text, maybe the revision's id, is too long; else ''."""
    too_long = sqlstate(error) == "22001" or number(root(error)) == _DATA_TOO_LONG
    if not too_long or len(revision) <= LONGEST_ID:
        return ""
    return f". Its id has {len(revision)} characters. To fix: {_WAYS_OUT}"
