"""How long a kind of statement took last time, from the history table.

The history has the duration of each revision, not of each statement. So the last revision counts that executed the same
kind of statement on the same table, or else on any table; with its number of statements, of which one is that kind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ...execution.history_table import Outcome

_TABLES = ("the same table", "another table")

Key = tuple[str, str]
"""The kind of a statement, and its table."""


@dataclass(frozen=True)
class LastTime:
    """A revision that was applied before, and its duration."""

    revision: str
    seconds: float
    at: datetime
    same: str
    """What it has in common: "this revision", "the same table", "another table", or "this kind" without a table."""
    statements: int
    """How many statements the revision has."""

    def __str__(self) -> str:
        whole = "" if self.statements == 1 else f" with {self.statements} statements"
        where = f", on {self.same}" if self.same in _TABLES else ""
        return f"{self.seconds:.2f} s ({self.revision}{whole}{where}, {self.at:%Y-%m-%d})"


class LastTimes:
    """The durations of the applied revisions, and the kinds of their statements by revision."""

    def __init__(self, rows: Iterable[Mapping[str, Any]], keys: Mapping[str, Sequence[Key]]) -> None:
        self._rows = [row for row in rows if _applied(row)]
        self._keys = keys

    def of_revision(self, revision: str) -> LastTime | None:
        """Return the last time that this revision was applied; it was undone since."""
        return next((self._last(row, "this revision") for row in self._rows if row["revision"] == revision), None)

    def of_statement(self, kind: str, table: str) -> LastTime | None:
        """Return the newest revision with this kind of statement, on the same table if there is one."""
        on_same = self._newest(lambda key: key == (kind, table)) if table else None
        if on_same is not None:
            return self._last(on_same, _TABLES[0])
        on_any = self._newest(lambda key: key[0] == kind)
        return None if on_any is None else self._last(on_any, _TABLES[1] if table else "this kind")

    def _newest(self, fits: Callable[[Key], bool]) -> Mapping[str, Any] | None:
        return next((row for row in self._rows if any(map(fits, self._keys.get(row["revision"], ())))), None)

    def _last(self, row: Mapping[str, Any], same: str) -> LastTime:
        seconds = (row["finished_at"] - row["started_at"]).total_seconds()
        revision = row["revision"]
        return LastTime(revision, seconds, row["started_at"], same, len(self._keys.get(revision, ())) or 1)


def _applied(row: Mapping[str, Any]) -> bool:
    done = row["outcome"] == Outcome.APPLIED and row["direction"] == "upgrade"
    return bool(done and row["started_at"] and row["finished_at"])
