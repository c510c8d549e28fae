"""What 50 waiting instances cost the database, against 50 that poll each second."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from bench.crowd import Crowd
from bench.held import SETTLED_SECONDS, executing, until, until_crowd_waits
from bench.laboratory import Laboratory, bare_upgrade, our_upgrade
from bench.process import Program
from bench.projects import Project, project, small_bodies
from bench.spread import COUNT, MILLISECONDS, Spread, Unit
from bench.table import Bar, Chart, Goal, Row, Table

COLUMNS = ["this project", "a poll each second"]
TRANSACTIONS = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()"
LONG = 'op.execute("SELECT pg_sleep(3600)")'


def measure(lab: Laboratory) -> Table:
    """Count transactions and the CPU time of the server's processes while an instance migrates and 50 wait."""
    waiters, seconds = lab.size(50, 5), lab.size(60, 5)
    files = project(lab.folder(), [*small_bodies(1), LONG])
    transactions: dict[str, list[float]] = {"ours": [], "poll": []}
    spent: dict[str, list[float]] = {"ours": [], "poll": []}
    for _ in range(lab.times(3)):
        for variant in transactions:
            counted, cpu_seconds = _window(lab, files, variant, waiters, seconds)
            transactions[variant].append(counted)
            spent[variant].append(cpu_seconds)
    rows = [_row("transactions", transactions, COUNT), _row("CPU of the server", spent, MILLISECONDS)]
    medians = [Spread.of(values).median * 1000 for values in spent.values()]
    bars = [Bar("CPU of the server", name, value) for name, value in zip(COLUMNS, medians, strict=True)]
    notes = [f"{waiters} waiters for {seconds} s, beside the session that migrates."]
    return Table(COLUMNS, rows, notes, Chart(f"{waiters} waiters for {seconds} s", "ms", bars))


def _row(name: str, values: Mapping[str, Sequence[float]], unit: Unit) -> Row:
    ours, poll = Spread.of(values["ours"]), Spread.of(values["poll"])
    goal = Goal.below("the poll", ours.median, poll.median)
    return Row(name, [ours.words(unit), poll.words(unit)], [goal])


def _window(lab: Laboratory, files: Project, variant: str, waiters: int, seconds: int) -> tuple[float, float]:
    """Return the transactions and the CPU seconds of the server in a window of `seconds`."""
    url = lab.database.empty_database()
    ini, upgrade = (files.ours, our_upgrade()) if variant == "ours" else (files.plain, bare_upgrade())
    environment = lab.environment(url, ini)
    holder = Program(upgrade, environment, ini.parent)
    try:
        until(lambda: bool(executing(lab, url, "pg_sleep(3600)")), "a session executes the long statement")
        with Crowd(lab, variant, environment, waiters) as crowd:
            until_crowd_waits(lab, url, crowd)
            counted = -lab.database.execute(url, TRANSACTIONS)[0][0]
            # the server has then counted that query's own process among those that have ended
            time.sleep(SETTLED_SECONDS)
            spent = -lab.database.cpu_seconds()
            time.sleep(seconds)
            spent += lab.database.cpu_seconds()
            counted += lab.database.execute(url, TRANSACTIONS)[0][0]
    finally:
        holder.end()
    return counted, spent
