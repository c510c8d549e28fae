"""Process start to the first 200 of a route that reads the database, whose schema is at head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bench.laboratory import Laboratory, our_upgrade, timed
from bench.projects import project, small_bodies
from bench.service import start_together
from bench.spread import MILLISECONDS, TIMES, Spread, Usage, alternating, cpu, wall
from bench.table import Bar, Chart, Goal, Row, Table

REVISIONS = 10
COLUMNS = ["no migrations", "this project", "the recipe", "this ÷ none", "recipe ÷ none"]
LIMIT, LIMIT_TOGETHER = 1.10, 1.15


def measure(lab: Laboratory) -> Table:
    """Compare the three variants of one service, one process at a time and 12 at once."""
    files = project(lab.folder(), small_bodies(REVISIONS))
    url = lab.database.empty_database()
    timed(our_upgrade(), lab.environment(url, files.ours))
    inis = {"bare": files.plain, "ours": files.ours, "recipe": files.plain}

    def start(how_many: int, rounds: int) -> dict[str, list[Usage]]:
        def one(variant: str) -> Usage:
            return start_together(variant, how_many, lab.environment(url, inis[variant]), inis[variant].parent)

        return alternating({variant: lambda variant=variant: one(variant) for variant in inis}, rounds)  # type: ignore[misc]

    together = lab.size(12, 3)
    alone, crowd = start(1, lab.times(15)), start(together, lab.times(7))
    rows = [
        _row("1 process, CPU", {name: cpu(usages) for name, usages in alone.items()}, LIMIT),
        _row("1 process, wall", {name: wall(usages) for name, usages in alone.items()}),
        _row(f"{together} at once, CPU of all", {name: cpu(usages) for name, usages in crowd.items()}, LIMIT_TOGETHER),
        _row(f"{together} at once, wall to the last", {name: wall(usages) for name, usages in crowd.items()}),
    ]
    return Table(COLUMNS, rows, [f"{REVISIONS} revisions, all applied."], _chart(alone, crowd, together))


def _row(name: str, spreads: Mapping[str, Spread], limit: float | None = None) -> Row:
    ours = spreads["ours"].over(spreads["bare"])
    recipe = spreads["recipe"].over(spreads["bare"])
    cells = [spreads[variant].words(MILLISECONDS) for variant in ("bare", "ours", "recipe")]
    goals: Sequence[Goal] = ()
    if limit is not None:
        in_every_pair = spreads["ours"].over(spreads["recipe"]).largest
        goals = [
            Goal.at_most(limit, ours.median, TIMES),
            Goal.below("the recipe in every pair", in_every_pair, 1.0),
        ]
    return Row(name, [*cells, ours.words(TIMES), recipe.words(TIMES)], goals)


def _chart(alone: Mapping[str, list[Usage]], crowd: Mapping[str, list[Usage]], together: int) -> Chart:
    names = {"bare": "no migrations", "ours": "this project", "recipe": "the recipe"}
    groups = {"1 process": alone, f"{together} at once, per process": crowd}
    bars = [
        Bar(group, names[variant], cpu(usages).median * 1000 / (1 if group == "1 process" else together))
        for group, measured in groups.items()
        for variant, usages in measured.items()
    ]
    return Chart("CPU from process start to the first 200, at head", "ms", bars)
