"""The result of a measure: a table whose rows say what must be reached, and the chart of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.spread import Unit


@dataclass(frozen=True)
class Goal:
    """What a row must reach, in words, and whether it did."""

    words: str
    met: bool

    @classmethod
    def at_most(cls, limit: float, value: float, unit: Unit) -> Goal:
        """Return the goal that `value` is at most `limit`, both before the unit's scale."""
        return cls(f"≤ {unit.format(limit)}{'' if unit.name == '×' else ' '}{unit.name}", value <= limit)

    @classmethod
    def below(cls, other: str, value: float, limit: float) -> Goal:
        """Return the goal that `value` is below that of `other`."""
        return cls(f"below {other}", value < limit)


@dataclass(frozen=True)
class Row:
    """One line: its name, a cell for each column, and what must be reached."""

    name: str
    cells: Sequence[str]
    goals: Sequence[Goal] = ()

    @property
    def must_reach(self) -> str:
        """All goals in words."""
        return ", ".join(goal.words for goal in self.goals)

    @property
    def verdict(self) -> str:
        """`reached`, or which goals were missed; empty without a goal."""
        missed = [goal.words for goal in self.goals if not goal.met]
        if len(missed) == len(self.goals):
            return "MISSED" if missed else ""
        return f"MISSED: {', '.join(missed)}" if missed else "reached"


@dataclass(frozen=True)
class Bar:
    """One bar of a chart; `group` is the heading above it."""

    group: str
    name: str
    value: float


@dataclass(frozen=True)
class Chart:
    """Horizontal bars of one unit. `value` of a bar is already in that unit."""

    title: str
    unit: str
    bars: Sequence[Bar]


@dataclass(frozen=True)
class Table:
    """What a measure found.

    Attributes:
        columns: the headings of the cells.
        rows: the lines.
        notes: sentences below the table.
        chart: what its plot shows.
    """

    columns: Sequence[str]
    rows: Sequence[Row]
    notes: Sequence[str] = ()
    chart: Chart | None = field(default=None)

    @property
    def lines(self) -> list[list[str]]:
        """Headings and rows with the columns `must reach` and `result`, which are left out if no row has a goal."""
        goals = any(row.goals for row in self.rows)
        head = ["", *self.columns, *(["must reach", "result"] if goals else [])]
        return [head, *([row.name, *row.cells, *([row.must_reach, row.verdict] if goals else [])] for row in self.rows)]

    @property
    def missed(self) -> int:
        """How many goals were missed."""
        return sum(not goal.met for row in self.rows for goal in row.goals)
