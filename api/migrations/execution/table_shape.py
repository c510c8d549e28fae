"""Checks that the tables that the settings name are Alembic's version table and this package's history table.

Columns are added to the history table, and rows of the version table are replaced. So another table that is named by
mistake must be refused before.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from ..core.schema import Observed
from ..errors import ConfigurationError

VERSION_COLUMN = "version_num"
HISTORY_COLUMNS = frozenset(
    "id revision parents direction outcome instance release database_user started_at finished_at error".split()
)
"""The columns of the history table in the first release."""
_NOT_A_TABLE = "is a view or a foreign table"
_SHOWN = 5


@dataclass(frozen=True)
class Shape:
    """The columns and the type of a table."""

    columns: frozenset[str]
    ordinary: bool = True
    """Whether it is a table, not a view or a foreign table."""


def refuse_history(name: str, shape: Shape | None) -> None:
    """Raise `ConfigurationError` if `name` is another table than the history table of any release; None is no table."""
    if shape is None:
        return
    missing = HISTORY_COLUMNS - shape.columns
    why = _NOT_A_TABLE if not shape.ordinary else f"has no column {_names(missing)}" if missing else None
    if why:
        raise ConfigurationError(
            f"{name} cannot be the history table: it {why}. It was not changed. To fix: set MIGRATION_HISTORY_TABLE "
            "(default: the version table's name followed by _history) to a name that no other table has"
        )


def refuse_version(name: str, shape: Shape | None, rows_are_revisions: bool = False) -> None:
    """Raise `ConfigurationError` if `name` is another table than Alembic's version table; None is no table.

    The version table may have further columns if its rows are known revisions (`rows_are_revisions`).
    """
    if shape is None:
        return
    further = shape.columns - {VERSION_COLUMN}
    why = None
    if not shape.ordinary:
        why = _NOT_A_TABLE
    elif VERSION_COLUMN not in shape.columns:
        why = f"has no column {VERSION_COLUMN}"
    elif further and not rows_are_revisions:
        why = f"has the columns {_names(further)} besides {VERSION_COLUMN}, and its rows are not known revisions"
    if why:
        raise ConfigurationError(
            f"{name} cannot be the version table: it {why}. It was not changed. To fix: set MIGRATION_VERSION_TABLE, "
            "or version_table in env.py, to the name of Alembic's version table, or to one that no other table has"
        )


class OwnTables:
    """The base of a store: checks the version and the history table.

    `names` are the tables' names for messages; `known` are the revisions of this build. With `expects_tables`
    a database that has other tables and no revision counts as empty.
    """

    def __init__(self, names: tuple[str, str], known: Collection[str], *, expects_tables: bool) -> None:
        self._names = names
        self._known = frozenset(known)
        self._expects_tables = expects_tables
        self._recognised = False

    async def recognise(self) -> None:
        """Raise `ConfigurationError` if one of the two is another table; both may be missing."""
        version, history = await self._shapes()
        refuse_history(self._names[1], history)
        # a project may add columns to its version table; the rows distinguish it from other tables
        wider = version is not None and version.columns > {VERSION_COLUMN}
        refuse_version(self._names[0], version, wider and await self._rows_are_revisions(history))
        self._recognised = True

    async def observe(self) -> Observed:
        """Return the state of the database; without a revision, also the other tables of its schema."""
        observed = await self._observed()
        if observed.revisions or self._expects_tables:
            return observed
        tables = await self._other_tables()
        # read again, because another session may have migrated between the two queries
        return replace(await self._observed(), other_tables=tuple(sorted(tables))) if tables else observed

    async def _observed(self) -> Observed:
        """Return the revisions, the half-applied ones, the newest rows, the last success and failure."""
        raise NotImplementedError

    async def _other_tables(self) -> Collection[str]:
        """Return the tables of the version table's schema: not its own, the history table, or an extension's."""
        raise NotImplementedError

    async def lineage(self) -> Mapping[str, frozenset[str]]:
        """Return the parents of every revision in the history table."""
        raise NotImplementedError

    async def _shapes(self) -> tuple[Shape | None, Shape | None]:
        """Return the shapes of the version and the history table."""
        raise NotImplementedError

    async def _versions(self) -> frozenset[str]:
        """Return the rows of the version table."""
        raise NotImplementedError

    async def _recognise_once(self) -> None:
        if not self._recognised:
            await self.recognise()

    async def _recognise_unless_known(self, revisions: frozenset[str]) -> None:
        # no other table has rows that are revisions of this build; a start at head needs no further query
        if not revisions or revisions - self._known:
            await self._recognise_once()

    async def _rows_are_revisions(self, history: Shape | None) -> bool:
        revisions = await self._versions()
        known = self._known | (frozenset(await self.lineage()) if history else frozenset())
        return bool(revisions) and revisions <= known


def _names(columns: Iterable[str]) -> str:
    names = sorted(columns)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
