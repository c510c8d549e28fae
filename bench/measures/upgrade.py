"""`upgrade` of an empty database through many small revisions, against `alembic upgrade head`."""

from __future__ import annotations

from bench.laboratory import Laboratory, bare_upgrade, our_upgrade, timed
from bench.projects import project, small_bodies
from bench.spread import SECONDS, TIMES, Spread, alternating, cpu, wall
from bench.table import Bar, Chart, Goal, Row, Table

COLUMNS = ["bare Alembic", "this project", "this ÷ Alembic"]
WALL_LIMIT, CPU_LIMIT = 1.5, 1.4


def measure(lab: Laboratory) -> Table:
    """Apply 500 revisions of one CREATE TABLE each; Alembic also with a transaction for each revision."""
    revisions = lab.size(500, 20)
    files = project(lab.folder(), small_bodies(revisions))
    measured = alternating(
        {
            "plain": lambda: timed(bare_upgrade(), lab.environment(lab.database.empty_database(), files.plain)),
            "ours": lambda: timed(our_upgrade(), lab.environment(lab.database.empty_database(), files.ours)),
        },
        lab.times(5),
    )
    plain, ours = measured["plain"], measured["ours"]
    rows = [
        _row(f"{revisions} revisions, wall", wall(plain), wall(ours), WALL_LIMIT),
        _row(f"{revisions} revisions, CPU", cpu(plain), cpu(ours), CPU_LIMIT),
    ]
    bars = [
        Bar(what, name, spread(usages).median)
        for what, spread in {"wall": wall, "CPU": cpu}.items()
        for name, usages in {"bare Alembic": plain, "this project": ours}.items()
    ]
    return Table(COLUMNS, rows, chart=Chart(f"{revisions} small revisions", "s", bars))


def _row(name: str, plain: Spread, ours: Spread, limit: float) -> Row:
    ratio = ours.over(plain)
    cells = [plain.words(SECONDS), ours.words(SECONDS), ratio.words(TIMES)]
    return Row(name, cells, [Goal.at_most(limit, ratio.median, TIMES)])
