"""300 instances start at once on a server with `max_connections=100`, while a migration of 5 s runs."""

from __future__ import annotations

from dataclasses import dataclass

from bench.crowd import Crowd
from bench.held import sampled
from bench.laboratory import Laboratory
from bench.projects import Project, project, small_bodies
from bench.spread import COUNT, SECONDS, Spread
from bench.table import Goal, Row, Table

INSTANCES, PROCESSES, MIGRATION_SECONDS = 300, 10, 5
COLUMNS = ["this project", "the recipe"]
HELD = (
    "SELECT count(*) AS connections, count(*) FILTER (WHERE state = 'active') AS queries FROM pg_stat_activity "
    "WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
)
ROLE, PASSWORD = "crowd", "secret"


@dataclass(frozen=True)
class Outcome:
    """What became of a crowd: times in seconds after the COMMIT, and counts."""

    last_ready: float
    failed: int
    connections: int
    queries: float


def measure(lab: Laboratory) -> Table:
    """Let both variants start as a role that cannot use the connections reserved for superusers."""
    instances = lab.size(INSTANCES, 20)
    seconds = lab.size(MIGRATION_SECONDS, 2)
    files = project(lab.folder(), [*small_bodies(1), f'op.execute("SELECT pg_sleep({seconds})")'])
    lab.database.server.execute(f"CREATE ROLE {ROLE} LOGIN PASSWORD '{PASSWORD}'")
    found: dict[str, list[Outcome]] = {"ours": [], "recipe": []}
    for _ in range(lab.times(3)):
        for variant, outcomes in found.items():
            outcomes.append(_crowd(lab, files, variant, instances))
    ours, recipe = found["ours"], found["recipe"]
    failed = [Spread.of([each.failed for each in outcomes]) for outcomes in (ours, recipe)]
    ready = [Spread.of([each.last_ready for each in outcomes]) for outcomes in (ours, recipe)]
    most = [Spread.of([each.connections for each in outcomes]) for outcomes in (ours, recipe)]
    busy = [Spread.of([each.queries for each in outcomes]) for outcomes in (ours, recipe)]
    rows = [
        Row("instances that failed", [each.words(COUNT) for each in failed], [Goal("0", failed[0].largest == 0)]),
        Row("COMMIT to the last ready one", [each.words(SECONDS) for each in ready]),
        Row("most connections at once", [each.words(COUNT) for each in most]),
        Row("running queries, mean", [each.words(COUNT) for each in busy]),
    ]
    notes = [
        f"{instances} instances in {PROCESSES} processes without web servers. An instance of the recipe that gets no "
        "connection fails, and its supervisor would have to start it again."
    ]
    return Table(COLUMNS, rows, notes)


def _crowd(lab: Laboratory, files: Project, variant: str, instances: int) -> Outcome:
    url = lab.database.empty_database()
    name = url.rpartition("/")[2]
    lab.database.server.execute(f'ALTER DATABASE "{name}" OWNER TO {ROLE}')
    ini = files.ours if variant == "ours" else files.plain
    environment = lab.environment(lab.database.server.url(name, user=ROLE, password=PASSWORD), ini)
    with sampled(url, HELD) as samples, Crowd(lab, variant, environment, instances, PROCESSES) as crowd:
        ready, errors = crowd.outcomes()
    committed = lab.database.committed_at(url)
    queries = sum(row["queries"] for row in samples) / len(samples)
    return Outcome(max(ready) - committed, len(errors), max(row["connections"] for row in samples), queries)
