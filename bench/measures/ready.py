"""From the last revision's COMMIT to the moment at which the instances are ready."""

from __future__ import annotations

from dataclasses import replace

from bench.crowd import Crowd
from bench.errors import BenchError
from bench.held import HELD, let_go, until_crowd_waits, until_held, until_instances_wait
from bench.laboratory import Laboratory, bare_upgrade, our_upgrade
from bench.process import Program
from bench.projects import Project, project, small_bodies
from bench.server import bench_server
from bench.service import Instance
from bench.spread import MILLISECONDS, Spread
from bench.table import Bar, Chart, Goal, Row, Table

PROCESSES, CROWD, ROOM = 5, 90, 300
LIMIT_SECONDS, CROWD_LIMIT_SECONDS, EXIT_LIMIT_SECONDS = 0.020, 0.100, 0.100
COLUMNS = ["this project", "p99", "the recipe, or a poll each second", "p99"]


def measure(lab: Laboratory) -> Table:
    """Compare 5 processes with the recipe's, and 90 waiters in one process with a poll each second."""
    files = project(lab.folder(), [*small_bodies(1), HELD])
    few: dict[str, list[float]] = {"ours": [], "recipe": []}
    many: dict[str, list[float]] = {"ours": [], "poll": []}
    exits: dict[str, list[float]] = {"ours": [], "poll": []}
    crowd = lab.size(CROWD, 5)
    for _ in range(lab.times(20)):
        for variant in few:
            few[variant] += _processes(lab, files, variant)
    with bench_server(max_connections=str(ROOM)) as server:
        for _ in range(lab.times(7)):
            for variant in many:
                delays, exited = _crowd(replace(lab, database=server), files, variant, crowd)
                many[variant] += delays
                exits[variant].append(exited)
    rows = [
        _row(f"{PROCESSES} processes, COMMIT to ready", few["ours"], few["recipe"], LIMIT_SECONDS),
        _row(f"{crowd} waiters in one process, COMMIT to ready", many["ours"], many["poll"], CROWD_LIMIT_SECONDS),
        _row("COMMIT to the exit of `upgrade` (bare Alembic)", exits["ours"], exits["poll"], EXIT_LIMIT_SECONDS),
    ]
    bars = [
        Bar(group, name, Spread.of(delays).percentile(99) * 1000)
        for group, pair in {f"{PROCESSES} processes": few, f"{crowd} waiters in one process": many}.items()
        for name, delays in zip(["this project", next(k for k in pair if k != "ours")], pair.values(), strict=True)
    ]
    notes = [
        "The processes include the one that migrates. COMMIT is the commit timestamp of the version's row. The server "
        f"of the {crowd} waiters has max_connections={ROOM}, because waiters disconnect and poll while more than half "
        "of a server's connections are in use; 300 instances on 100 connections are a measure of their own."
    ]
    return Table(COLUMNS, rows, notes, Chart("Last COMMIT to ready, p99", "ms", bars))


def _row(name: str, ours: list[float], other: list[float], limit: float) -> Row:
    cells: list[str] = []
    for spread in (Spread.of(ours), Spread.of(other)):
        cells += [spread.words(MILLISECONDS), Spread.of([spread.percentile(99)]).words(MILLISECONDS)]
    return Row(name, cells, [Goal.at_most(limit, Spread.of(ours).percentile(99), MILLISECONDS)])


def _processes(lab: Laboratory, files: Project, variant: str) -> list[float]:
    url = lab.database.empty_database()
    ini = files.ours if variant == "ours" else files.plain
    instances: list[Instance] = []

    def start() -> None:
        instances.append(Instance(variant, lab.environment(url, ini), ini.parent))

    try:
        start()
        until_held(lab, url)
        for _ in range(PROCESSES - 1):
            start()
        until_instances_wait(lab, url, instances[1:])
        let_go(lab, url)
        ready = [instance.ready_at() for instance in instances]
        committed = lab.database.committed_at(url)
    finally:
        for instance in instances:
            instance.program.end()
    return [moment - committed for moment in ready]


def _crowd(lab: Laboratory, files: Project, variant: str, crowd: int) -> tuple[list[float], float]:
    url = lab.database.empty_database()
    ini, upgrade = (files.ours, our_upgrade()) if variant == "ours" else (files.plain, bare_upgrade())
    environment = lab.environment(url, ini)
    holder = Program(upgrade, environment, ini.parent)
    try:
        until_held(lab, url)
        with Crowd(lab, variant, environment, crowd) as waiters:
            until_crowd_waits(lab, url, waiters)
            let_go(lab, url)
            ready, errors = waiters.outcomes()
        took = holder.wait().wall_seconds
    finally:
        holder.end()
    if errors:
        raise BenchError(f"{len(errors)} of {crowd} waiters failed: {errors[0]}")
    committed = lab.database.committed_at(url)
    return [moment - committed for moment in ready], holder.started_at + took - committed
