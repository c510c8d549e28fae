"""What is written about the measures: tables on the terminal, docs/benchmarks.md, and its plots."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table as Drawn

from bench.catalogue import MEASURES, Measure
from bench.chart import svg
from bench.table import Table

HEAD = """\
# Benchmarks

Written by `./dev bench`; each section is the output of one measure. [bench/README.md](../bench/README.md) says how each
is measured, how the other tools are configured, and why that is fair. A cell is the median (smallest–largest); `÷` is
the ratio within a pair. A goal that was not reached is marked MISSED.

{machine}.

{versions}.
"""
HEADING = re.compile(r"^## ", re.MULTILINE)


@dataclass(frozen=True)
class Section:
    """One measure's part of the report.

    Attributes:
        moment: when and on which commit it was measured.
    """

    measure: Measure
    table: Table
    moment: str

    @property
    def plot(self) -> str:
        """The file name of its plot."""
        return f"benchmark-{self.measure.name.replace('_', '-')}.svg"

    def markdown(self) -> str:
        """Return the section, with the heading."""
        plot = [f"![{self.table.chart.title}]({self.plot})"] if self.table.chart else []
        parts = [
            f"## {self.measure.title}",
            *plot,
            in_markdown(self.table),
            *self.table.notes,
            f"`./dev bench {self.measure.name}`, {self.moment}.",
        ]
        return "\n\n".join(parts) + "\n"


def write(folder: Path, sections: Sequence[Section], machine: str, versions: str) -> Path:
    """Write benchmarks.md and the plots into `folder`; sections of other measures stay as they are. Return its path."""
    document = folder / "benchmarks.md"
    folder.mkdir(parents=True, exist_ok=True)
    kept = sections_of(document.read_text()) if document.exists() else {}
    fresh = {section.measure.title: section.markdown() for section in sections}
    document.write_text(assembled({**kept, **fresh}, HEAD.format(machine=machine, versions=versions)))
    for section in sections:
        if section.table.chart:
            (folder / section.plot).write_text(svg(section.table.chart))
    return document


def sections_of(text: str) -> dict[str, str]:
    """Return the sections of a report by their titles."""
    _, *parts = HEADING.split(text)
    return {part.partition("\n")[0]: f"## {part}" for part in parts}


def assembled(sections: Mapping[str, str], head: str) -> str:
    """Return the report: the head, and the sections in the order of the catalogue."""
    order = [measure.title for measure in MEASURES if measure.title in sections]
    return "\n".join([head, *(sections[title].rstrip("\n") + "\n" for title in order)])


def in_markdown(table: Table) -> str:
    """Return the table for a document, without its notes."""
    head, *rows = table.lines
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_bold(cell) for cell in line) + " |" for line in lines)


def drawn(title: str, table: Table) -> Drawn:
    """Return the table for the terminal."""
    head, *rows = table.lines
    drawn = Drawn(title=title, title_justify="left", caption="\n".join(table.notes))
    for number, name in enumerate(head):
        drawn.add_column(name, justify="right" if number > 0 else "left")
    for row in rows:
        drawn.add_row(*row, style="red" if row[-1].startswith("MISSED") else None)
    return drawn


def _bold(cell: str) -> str:
    return f"**{cell}**" if cell.startswith("MISSED") else cell
