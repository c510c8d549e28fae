"""SIGKILL of the instance that runs a statement of 6 s: when its successor runs it, and when it is done."""

from __future__ import annotations

import time

from bench.held import HELD, executing, let_go, sampled, until, until_held, until_instances_wait
from bench.laboratory import Laboratory
from bench.projects import Project, project, small_bodies
from bench.service import Instance
from bench.spread import SECONDS, Spread
from bench.table import Bar, Chart, Goal, Row, Table

STATEMENT_SECONDS = 6
INTO_IT_SECONDS = 2.0
"""How long the statement has run when the process is killed."""
SLEEPING = "CREATE TABLE slow AS SELECT"
COLUMNS = ["this project", "the recipe"]
STARTS = (
    "SELECT pid, extract(epoch FROM query_start)::float8 AS since, "
    "extract(epoch FROM clock_timestamp())::float8 AS now "
    f"FROM pg_stat_activity WHERE state = 'active' AND query LIKE '{SLEEPING}%' AND datname = current_database()"
)


def measure(lab: Laboratory) -> Table:
    """Kill the lock holder of two instances; what counts is what the successor does after that."""
    seconds = lab.size(STATEMENT_SECONDS, 4)
    slow = f'op.execute("{SLEEPING} pg_sleep({seconds})::text AS slept")'
    files = project(lab.folder(), [*small_bodies(1), HELD, slow])
    found: dict[str, list[tuple[float, float, float]]] = {"ours": [], "recipe": []}
    for _ in range(lab.times(7)):
        for variant, measured in found.items():
            measured.append(_killed(lab, files, variant, seconds))
    first, done, overlap = ([Spread.of([one[n] for one in found[v]]) for v in ("ours", "recipe")] for n in range(3))
    rows = [
        _row("to the successor's first statement", first),
        _row(f"to its COMMIT, less the {seconds} s", done),
        Row("both statements ran at once", [spread.words(SECONDS) for spread in overlap], [_none(overlap[0])]),
    ]
    group = f"a statement of {seconds} s"
    bars = [Bar(group, name, spread.median) for name, spread in zip(COLUMNS, done, strict=True)]
    return Table(COLUMNS, rows, chart=Chart("SIGKILL to the successor's COMMIT, less its statement", "s", bars))


def _row(name: str, spreads: list[Spread]) -> Row:
    ours, recipe = spreads
    goal = Goal.below("the recipe", ours.median, recipe.median)
    return Row(f"SIGKILL {name}", [ours.words(SECONDS), recipe.words(SECONDS)], [goal])


def _none(overlap: Spread) -> Goal:
    return Goal("0 s", overlap.largest == 0)


def _killed(lab: Laboratory, files: Project, variant: str, seconds: float) -> tuple[float, float, float]:
    """Return three durations in seconds: to the first statement, to the end without the statement, of the overlap."""
    url = lab.database.empty_database()
    ini = files.ours if variant == "ours" else files.plain
    environment = lab.environment(url, ini)
    instances = [Instance(variant, environment, ini.parent)]
    try:
        until_held(lab, url)
        instances.append(Instance(variant, environment, ini.parent))
        until_instances_wait(lab, url, instances[1:])
        let_go(lab, url)
        until(lambda: bool(executing(lab, url, SLEEPING)), "the first instance executes its long statement")
        [(first, since)] = executing(lab, url, SLEEPING).items()
        time.sleep(max(0.0, since + INTO_IT_SECONDS - time.time()))
        with sampled(url, STARTS, 0.01) as seen:
            killed_at = time.time()
            instances[0].program.end()
            instances[1].ready_at()
        committed = lab.database.committed_at(url)
    finally:
        for instance in instances:
            instance.program.end()
    began = min(row["since"] for row in seen if row["pid"] != first)
    old = max((row["now"] for row in seen if row["pid"] == first), default=killed_at)
    return began - killed_at, committed - killed_at - seconds, max(0.0, old - began)
