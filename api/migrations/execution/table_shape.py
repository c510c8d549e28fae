"""Whether the tables that the settings name are Alembic's version table and our history table.

They are written: a column that the history table lacks is added to it, and rows of the version table are replaced. So
a table of the application's own, named by mistake, is refused before that.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from ..errors import ConfigurationError

VERSION_COLUMN = "version_num"
HISTORY_COLUMNS = frozenset(
    "id revision parents direction outcome instance release database_user started_at finished_at error".split()
)
"""Those that the history table has had from the first release on."""

_SHOWN = 5


@dataclass(frozen=True)
class Shape:
    """A table, as the database describes it."""

    columns: frozenset[str]
    ordinary: bool = True
    """Whether its rows are its own; those of a view or a foreign table are another one's."""


def refuse_history(name: str, shape: Shape | None) -> None:
    """Accept the history table of any release, or None where there is no such table.

    Raises:
        ConfigurationError: `name` is another table.
    """
    if shape is None:
        return
    lacks = HISTORY_COLUMNS - shape.columns
    why = "is a view or a foreign table" if not shape.ordinary else f"has no column {_names(lacks)}" if lacks else None
    if why:
        raise ConfigurationError(
            f"{name} cannot be the history table: it {why}. It was not changed. To fix: set MIGRATION_HISTORY_TABLE "
            "(default: the version table's name followed by _history) to a name that no other table has"
        )


def refuse_version(name: str, shape: Shape | None, rows_are_revisions: bool = False) -> None:
    """Accept Alembic's version table, or None where there is no such table.

    Args:
        name: of the table.
        shape: what it looks like.
        rows_are_revisions: whether its rows are known revisions; then it may have further columns.

    Raises:
        ConfigurationError: `name` is another table.
    """
    if shape is None:
        return
    further = shape.columns - {VERSION_COLUMN}
    why = None
    if not shape.ordinary:
        why = "is a view or a foreign table"
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
    """The half of a session that knows whether the version and the history table are what they are taken for.

    `names` are theirs, for messages; `known` are the revisions of this build.
    """

    def __init__(self, names: tuple[str, str], known: Collection[str]) -> None:
        self._names = names
        self._known = frozenset(known)
        self._recognised = False

    async def recognise(self) -> None:
        """Look at both tables; one that does not exist is accepted.

        Raises:
            ConfigurationError: one of them is another table.
        """
        version, history = await self._shapes()
        refuse_history(self._names[1], history)
        # a version table may have got further columns; its rows tell it from others
        wider = version is not None and version.columns > {VERSION_COLUMN}
        refuse_version(self._names[0], version, wider and await self._rows_are_revisions(history))
        self._recognised = True

    async def lineage(self) -> Mapping[str, frozenset[str]]:
        """Parents of every revision in the history table."""
        raise NotImplementedError

    async def _shapes(self) -> tuple[Shape | None, Shape | None]:
        """Of the version and the history table."""
        raise NotImplementedError

    async def _versions(self) -> frozenset[str]:
        """The rows of the version table."""
        raise NotImplementedError

    async def _recognise_once(self) -> None:
        if not self._recognised:
            await self.recognise()

    async def _recognise_unless_known(self, revisions: frozenset[str]) -> None:
        # rows that are revisions of this build are found in no other table, and a start at head asks nothing else
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
