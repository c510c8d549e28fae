"""`/metrics`: the status in Prometheus's words. Needs `prometheus-client`; nothing else of the package does.

A view of memory, as the health endpoints are: a scrape reads the status of that moment, and never the database. Every
series is there from the first scrape on, with 0 for what has not happened: a counter that is first seen at 1 does not
fire `increase()`, and a comparison with a series that is missing is never true.

A process that dies at start-up may never be scraped. When a run last succeeded and last failed is therefore read from
the history table, with the schema: whoever starts next shows the failure of the one before.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Self

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ..core.schema import SchemaState
from ..core.status import Phase, Status

Read = Callable[[], Status]

RESULTS = ("applied", "failed", "interrupted")
STEP_BUCKETS_SECONDS = (0.1, 1.0, 10.0, 60.0, 300.0, 1800.0)
UP_TO_DATE = frozenset({SchemaState.AT_HEAD, SchemaState.AHEAD})


class MigrationCollector(Collector):
    """Makes the metrics from the status, at each scrape."""

    def __init__(self, read: Read, now: Callable[[], float] = time.time) -> None:
        self._read = read
        self._now = now

    @classmethod
    def of(cls, app: Starlette) -> Self:
        """For an application with a `/metrics` of its own: `REGISTRY.register(MigrationCollector.of(app))`."""
        return cls(lambda: app.state.migrations.status if hasattr(app.state, "migrations") else Status())

    def collect(self) -> Iterator[Metric]:
        """All families, of one and the same status."""
        status, now = self._read(), self._now()
        yield _info(status)
        yield _state_set("migration_phase", "What the instance is doing: 1 for one phase.", Phase, status.phase)
        words = "Where the database stood against this build at the last look: 1 for one state."
        yield _state_set("migration_schema_state", words, SchemaState, status.schema.state)
        for name, (words, value) in GAUGES.items():
            yield GaugeMetricFamily(name, words, float(value(status, now)))
        yield _runs(status)
        yield _contended(status)
        yield _steps(status)


def route(read: Read) -> Route:
    """`/metrics`, with a registry of its own: what else the process counts is the application's business."""
    registry = CollectorRegistry()
    registry.register(MigrationCollector(read))

    async def metrics(request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return Response(encode(registry), headers={"Content-Type": content_type, "Cache-Control": "no-store"})

    return Route("/metrics", metrics)


def _in_progress(status: Status, _now: float) -> bool:
    return status.phase is Phase.MIGRATING or (status.phase is Phase.WAITING and status.lock_status.holder is not None)


def _holder_age(status: Status, now: float) -> float:
    holder = status.lock_status.holder
    if holder is None or holder.since is None or not _in_progress(status, now):
        return 0.0
    return max(0.0, now - holder.since)  # by the server's clock, which may be ahead of ours


def _waited(status: Status, now: float) -> float:
    waiting = status.phase is Phase.WAITING and status.waiting_since is not None
    return max(0.0, now - (status.waiting_since or now)) if waiting else 0.0


def _last_failure(status: Status, _now: float) -> float:
    # after its own failure an instance does not look into the history any more
    run = status.last_run
    own = run.finished_at if run and run.result == "failed" else None
    return max(own or 0.0, status.last_failure or 0.0)


GAUGES: dict[str, tuple[str, Callable[[Status, float], float]]] = {
    "migration_ready": ("Whether the instance serves.", lambda status, now: status.ready),
    "migration_up_to_date": (
        "Whether the database had every revision of this build at the last look; 0 before the first.",
        lambda status, now: status.schema.state in UP_TO_DATE,
    ),
    "migration_pending_revisions": (
        "Revisions of this build that the database lacked at the last look; 0 before the first.",
        lambda status, now: len(status.schema.pending),
    ),
    "migration_in_progress": ("Whether somebody holds the lock, as far as this instance sees.", _in_progress),
    "migration_lock_held": (
        "Whether this instance holds the lock and migrates.",
        lambda status, now: status.phase is Phase.MIGRATING,
    ),
    "migration_lock_holder_age_seconds": (
        "For how long the session that holds the lock has been connected; 0 where nobody does.",
        _holder_age,
    ),
    "migration_lock_wait_seconds": ("For how long this instance has been waiting; 0 when it does not.", _waited),
    "migration_started_timestamp_seconds": (
        "When the run began that this instance makes or watches; 0 without one.",
        lambda status, now: status.progress.started_at or 0.0,
    ),
    "migration_run_seconds": (
        "How long that run has lasted, or lasted; 0 without one.",
        lambda status, now: status.run_seconds(now) or 0.0,
    ),
    "migration_last_success_timestamp_seconds": (
        "When a revision was last applied, undone or stamped by anybody, from the history table; 0 for never.",
        lambda status, now: status.last_success or 0.0,
    ),
    "migration_last_failure_timestamp_seconds": (
        "When an attempt at a revision last failed, whoever made it, from the history table; 0 for never.",
        _last_failure,
    ),
    "migration_invalid_indexes": (
        "INVALID indexes that this instance's run found or left behind.",
        lambda status, now: len(status.invalid_indexes),
    ),
}


def _info(status: Status) -> Metric:
    # not "instance": Prometheus gives every series a label of that name, the address that it scrapes
    labels = {
        "instance_name": status.instance,
        "release": status.release or "",
        "strategy": status.strategy,
        "heads": ",".join(sorted(status.schema.heads)),
        "database_revisions": ",".join(sorted(status.schema.revisions)),
    }
    words = "Who this is, the heads of its build, and the database's revisions at the last look: always 1."
    family = GaugeMetricFamily("migration_info", words, labels=list(labels))
    family.add_metric(list(labels.values()), 1)
    return family


def _state_set(name: str, words: str, values: type[Phase] | type[SchemaState], current: str) -> Metric:
    family = GaugeMetricFamily(name, words, labels=[name.rpartition("_")[2]])
    for value in values:
        family.add_metric([str(value)], float(value == current))
    return family


def _runs(status: Status) -> Metric:
    words = "Runs that this instance began, by how they ended; an interrupted one lost its session or the lock."
    family = CounterMetricFamily("migration_runs_total", words, labels=["result"])
    for result in RESULTS:
        family.add_metric([result], status.counters.runs.count(result))
    return family


def _contended(status: Status) -> Metric:
    words = "Steps of this instance's runs that did not get a table's lock and were rolled back."
    return CounterMetricFamily("migration_lock_contended_total", words, status.counters.contended)


def _steps(status: Status) -> Metric:
    took = status.counters.step_seconds
    buckets = [(str(bound), float(sum(each <= bound for each in took))) for bound in STEP_BUCKETS_SECONDS]
    buckets.append(("+Inf", float(len(took))))
    words = "How long each revision took that this instance ran to its end."
    return HistogramMetricFamily("migration_revision_duration_seconds", words, buckets=buckets, sum_value=sum(took))
