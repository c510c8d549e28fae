"""`upgrade` of a database that is at head, against `alembic upgrade head`."""

from __future__ import annotations

from bench.laboratory import Laboratory, bare_upgrade, our_upgrade, timed
from bench.projects import project, small_bodies
from bench.spread import MILLISECONDS, TIMES, Usage, alternating, cpu, wall
from bench.table import Bar, Chart, Goal, Row, Table

COLUMNS = ["bare Alembic", "this project", "this ÷ Alembic"]
LIMITS = {10: 1.0, 500: 0.6}
"""The largest ratio of CPU times, by the number of revisions."""


def measure(lab: Laboratory) -> Table:
    """Run both commands on a database that has nothing to do, with 10 and with 500 revisions."""
    rows: list[Row] = []
    bars: list[Bar] = []
    for usual, limit in LIMITS.items():
        revisions = lab.size(usual, min(usual, 20))
        measured = _measured(lab, revisions)
        plain, ours = cpu(measured["plain"]), cpu(measured["ours"])
        ratio = ours.over(plain)
        cells = [plain.words(MILLISECONDS), ours.words(MILLISECONDS), ratio.words(TIMES)]
        rows.append(Row(f"{revisions} revisions, CPU", cells, [Goal.at_most(limit, ratio.median, TIMES)]))
        walls = [wall(measured[name]) for name in ("plain", "ours")]
        cells = [*(each.words(MILLISECONDS) for each in walls), walls[1].over(walls[0]).words(TIMES)]
        rows.append(Row(f"{revisions} revisions, wall", cells))
        group = f"{revisions} revisions"
        bars += [Bar(group, "bare Alembic", plain.median * 1000), Bar(group, "this project", ours.median * 1000)]
    return Table(COLUMNS, rows, chart=Chart("CPU of `upgrade` with nothing to do", "ms", bars))


def _measured(lab: Laboratory, revisions: int) -> dict[str, list[Usage]]:
    files = project(lab.folder(), small_bodies(revisions))
    url = lab.database.empty_database()
    timed(our_upgrade(), lab.environment(url, files.ours))
    return alternating(
        {
            "plain": lambda: timed(bare_upgrade(), lab.environment(url, files.plain)),
            "ours": lambda: timed(our_upgrade(), lab.environment(url, files.ours)),
        },
        lab.times(11),
    )
