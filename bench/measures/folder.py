"""What the number of revisions in the folder costs when nothing is to do: the start, its memory, and `upgrade`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from bench.laboratory import Laboratory, bare_stamp, bare_upgrade, our_upgrade, timed
from bench.projects import Project, project, small_bodies
from bench.service import start_together
from bench.spread import MEBIBYTES, MILLISECONDS, Spread, Unit, Usage, alternating, cpu, peak, wall
from bench.table import Bar, Chart, Row, Table

SIZES = (10, 100, 1_000, 10_000)
QUICK_SIZES = (10, 100)
ROUNDS = 3
COLUMNS = ["this project", "the recipe or bare Alembic"]
Quantity = Callable[[Sequence[Usage]], Spread]
STARTS: Mapping[str, tuple[Quantity, Unit]] = {
    "start, CPU": (cpu, MILLISECONDS),
    "start, wall": (wall, MILLISECONDS),
    "start, memory": (peak, MEBIBYTES),
}
UPGRADES: Mapping[str, tuple[Quantity, Unit]] = {
    "`upgrade`, CPU": (cpu, MILLISECONDS),
    "`upgrade`, wall": (wall, MILLISECONDS),
}


def measure(lab: Laboratory) -> Table:
    """Stamp a database with the head of a folder of each size, and start and upgrade on it."""
    rows: list[Row] = []
    bars: list[Bar] = []
    for size in QUICK_SIZES if lab.quick else SIZES:
        starts, upgrades = _measured(lab, size)
        for measured, quantities in ((starts, STARTS), (upgrades, UPGRADES)):
            for what, (quantity, unit) in quantities.items():
                cells = [quantity(measured[variant]).words(unit) for variant in measured]
                rows.append(Row(f"{size:,} revisions: {what}", cells))
        group = f"{size:,} revisions"
        for name, variant in zip(["this project", "the recipe"], starts, strict=True):
            bars.append(Bar(group, name, cpu(starts[variant]).median * 1000))
    notes = ["Start: of one process to its first 200, with the recipe. `upgrade`: with bare Alembic. All at head."]
    return Table(COLUMNS, rows, notes, Chart("CPU of a start at head", "ms", bars))


def _measured(lab: Laboratory, size: int) -> tuple[dict[str, list[Usage]], dict[str, list[Usage]]]:
    # the table of the service is the only one that is needed
    files = project(lab.folder(), small_bodies(size))
    url = lab.database.empty_database()
    lab.database.execute(url, "CREATE TABLE t1 (id integer)")
    timed(bare_stamp(), lab.environment(url, files.plain))
    return _starts(lab, files, url), _upgrades(lab, files, url)


def _starts(lab: Laboratory, files: Project, url: str) -> dict[str, list[Usage]]:
    ours, plain = lab.environment(url, files.ours), lab.environment(url, files.plain)
    return alternating(
        {
            "ours": lambda: start_together("ours", 1, ours, files.ours.parent),
            "recipe": lambda: start_together("recipe", 1, plain, files.plain.parent),
        },
        lab.times(ROUNDS),
    )


def _upgrades(lab: Laboratory, files: Project, url: str) -> dict[str, list[Usage]]:
    ours, plain = lab.environment(url, files.ours), lab.environment(url, files.plain)
    return alternating(
        {"ours": lambda: timed(our_upgrade(), ours), "plain": lambda: timed(bare_upgrade(), plain)},
        lab.times(ROUNDS),
    )
