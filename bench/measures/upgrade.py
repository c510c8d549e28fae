"""`upgrade` of an empty database through many small revisions, against `alembic upgrade head`."""

from __future__ import annotations

from bench.laboratory import Laboratory, bare_upgrade, our_upgrade, timed
from bench.projects import Project, project, small_bodies
from bench.spread import SECONDS, TIMES, Spread, Usage, alternating, cpu, wall
from bench.table import Bar, Chart, Goal, Row, Table

COLUMNS = ["bare Alembic", "this project", "this ÷ Alembic"]
DRIVERS = ("asyncpg", "psycopg")
WALL_LIMIT, CPU_LIMIT = 1.5, 1.4


def measure(lab: Laboratory) -> Table:
    """Apply 500 revisions of one CREATE TABLE each; Alembic also with a transaction for each revision."""
    revisions = lab.size(500, 20)
    files = project(lab.folder(), small_bodies(revisions))
    rows: list[Row] = []
    bars: list[Bar] = []
    for driver in DRIVERS:
        measured = _measured(lab, files, driver)
        plain, ours = measured["plain"], measured["ours"]
        group = f"{revisions} revisions, {driver}"
        goals = driver == DRIVERS[0]
        rows.append(_row(f"{group}, wall", wall(plain), wall(ours), WALL_LIMIT if goals else None))
        rows.append(_row(f"{group}, CPU", cpu(plain), cpu(ours), CPU_LIMIT if goals else None))
        bars += [Bar(f"{group}, wall", "bare Alembic", wall(plain).median)]
        bars += [Bar(f"{group}, wall", "this project", wall(ours).median)]
    return Table(COLUMNS, rows, chart=Chart(f"{revisions} small revisions", "s", bars))


def _measured(lab: Laboratory, files: Project, driver: str) -> dict[str, list[Usage]]:
    def empty_database() -> str:
        url = lab.database.empty_database()
        return url if driver == "asyncpg" else url.replace("postgresql:", f"postgresql+{driver}:")

    return alternating(
        {
            "plain": lambda: timed(bare_upgrade(), lab.environment(empty_database(), files.plain)),
            "ours": lambda: timed(our_upgrade(), lab.environment(empty_database(), files.ours)),
        },
        lab.times(5),
    )


def _row(name: str, plain: Spread, ours: Spread, limit: float | None) -> Row:
    ratio = ours.over(plain)
    cells = [plain.words(SECONDS), ours.words(SECONDS), ratio.words(TIMES)]
    return Row(name, cells, [Goal.at_most(limit, ratio.median, TIMES)] if limit else ())
