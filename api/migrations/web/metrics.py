"""`/metrics` for Prometheus; the only module that needs `prometheus-client`.

A scrape reads the status in memory, never the database. Every series but the deadline exists from the first scrape on,
because a counter that first appears as 1 does not fire `increase()`, and a comparison with a missing series is never
true.

A process that fails at start-up may never be scraped. So the times of the last success and the last failure come from
the history table, and the next instance shows the failure of the previous one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from typing import Self

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response

from ..core.schema import Schema, SchemaState
from ..core.status import Phase, Status
from ..text.printable import printable

Read = Callable[[], Status]

RESULTS = ("applied", "failed", "interrupted")
STEP_BUCKETS_SECONDS = (0.1, 1.0, 10.0, 60.0, 300.0, 1800.0)
UP_TO_DATE = frozenset({SchemaState.AT_HEAD, SchemaState.AHEAD})


class MigrationCollector(Collector):
    """Derives the metrics from the status at each scrape."""

    def __init__(self, read: Read, now: Callable[[], float] = time.time) -> None:
        self._read = read
        self._now = now

    @classmethod
    def of(cls, app: Starlette) -> Self:
        """Return a collector for an `app` with its own `/metrics`: `REGISTRY.register(MigrationCollector.of(app))`."""
        return cls(lambda: app.state.migrations.status if hasattr(app.state, "migrations") else Status())

    def collect(self) -> Iterator[Metric]:
        """Yield all families, from one status."""
        status, now = self._read(), self._now()
        yield _info(status)
        yield _state_set("migration_phase", "What the instance is doing: 1 for one phase.", Phase, status.phase)
        words = "State of the database compared with this build, when last read: 1 for one state."
        yield _state_set("migration_schema_state", words, SchemaState, status.schema.state)
        for name, (words, value) in GAUGES.items():
            yield GaugeMetricFamily(name, words, float(value(status, now)))
        yield _deadline(status)
        yield _scopes(status)
        yield _runs(status)
        yield _contended(status)
        yield _steps(status)


def exposition(read: Read) -> Callable[[Request], Response]:
    """Return what answers `/metrics`, with its own registry: the application exports its own metrics."""
    registry = CollectorRegistry()
    registry.register(MigrationCollector(read))

    def answer(request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return Response(encode(registry), headers={"Content-Type": content_type, "Cache-Control": "no-store"})

    return answer


def _schemas(status: Status) -> Collection[Schema]:
    return status.scopes.values() or [status.schema]


def _scopes(status: Status) -> Metric:
    words = "Revisions of this build that each of several version tables lacked, when last read; by schema or database."
    family = GaugeMetricFamily("migration_scope_pending_revisions", words, labels=["scope"])
    for name, schema in status.scopes.items():
        family.add_metric([printable(name)], len(schema.pending))
    return family


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


def _blocked(status: Status, now: float) -> float:
    return status.blocked_seconds(now) if _in_progress(status, now) else 0.0


def _run_seconds(status: Status, now: float) -> float:
    from ..core.countdown import run_seconds  # a start at head does not need it

    return run_seconds(status, now) or 0.0


def _deadline(status: Status) -> Metric:
    # a comparison of the time with 0 would always be true, so there is no value without a deadline
    words = "When the instance's current wait or run gives up; no sample when it neither waits nor migrates."
    family = GaugeMetricFamily("migration_deadline_timestamp_seconds", words)
    if status.limit is not None:
        family.add_metric([], status.limit.at)
    return family


def _last_failure(status: Status, _now: float) -> float:
    # an instance that is not held no longer reads the history after its own failure
    run = status.last_run
    own = run.finished_at if run and run.result == "failed" else None
    return max(own or 0.0, status.last_failure or 0.0)


GAUGES: dict[str, tuple[str, Callable[[Status, float], float]]] = {
    "migration_ready": ("Whether the instance serves.", lambda status, now: status.ready),
    "migration_up_to_date": (
        "Whether the database had every revision of this build, when last read; 0 before that.",
        lambda status, now: all(schema.state in UP_TO_DATE for schema in _schemas(status)),
    ),
    "migration_pending_revisions": (
        "Revisions of this build that the database lacked, when last read; 0 before that.",
        lambda status, now: sum(len(schema.pending) for schema in _schemas(status)),
    ),
    "migration_in_progress": ("Whether a session holds the lock, as far as this instance sees.", _in_progress),
    "migration_lock_held": (
        "Whether this instance holds the lock and migrates.",
        lambda status, now: status.phase is Phase.MIGRATING,
    ),
    "migration_lock_holder_age_seconds": (
        "How long the session that holds the lock has been connected; 0 if the lock is free.",
        _holder_age,
    ),
    "migration_lock_wait_seconds": ("How long this instance has been waiting; 0 if it does not wait.", _waited),
    "migration_wait_budget_seconds": (
        "MIGRATION_WAIT_SECONDS: how long the instance may take from its start to a verified schema.",
        lambda status, now: status.wait_budget_seconds,
    ),
    "migration_run_budget_seconds": (
        "MIGRATION_RUN_SECONDS: how long a run of this instance may take.",
        lambda status, now: status.run_budget_seconds,
    ),
    "migration_blocked_seconds": (
        "How long other sessions have blocked the current revision; 0 if this instance saw none for 30 s.",
        _blocked,
    ),
    "migration_started_timestamp_seconds": (
        "When the run began that this instance executes or watches; 0 without a run.",
        lambda status, now: status.progress.started_at or 0.0,
    ),
    "migration_run_seconds": (
        "Duration of that run so far, or in total; 0 without a run.",
        _run_seconds,
    ),
    "migration_last_success_timestamp_seconds": (
        "When any instance last applied, undid or stamped a revision, from the history table; 0 for never.",
        lambda status, now: status.last_success or 0.0,
    ),
    "migration_last_failure_timestamp_seconds": (
        "When an attempt of any instance last failed, from the history table; 0 for never.",
        _last_failure,
    ),
    "migration_invalid_indexes": (
        "INVALID indexes that this instance's run found or left behind.",
        lambda status, now: len(status.invalid_indexes),
    ),
}


def _info(status: Status) -> Metric:
    # not "instance": Prometheus adds a label of that name, the scraped address
    labels = {
        "instance_name": status.instance,
        "release": status.release or "",
        "strategy": status.strategy,
        "heads": ",".join(sorted(status.schema.heads)),
        "database_revisions": ",".join(sorted(status.schema.revisions)),
    }
    words = "Name, release, strategy and heads of this instance, and the database's revisions when last read: always 1."
    family = GaugeMetricFamily("migration_info", words, labels=list(labels))
    family.add_metric(list(map(printable, labels.values())), 1)
    return family


def _state_set(name: str, words: str, values: type[Phase] | type[SchemaState], current: str) -> Metric:
    family = GaugeMetricFamily(name, words, labels=[name.rpartition("_")[2]])
    for value in values:
        family.add_metric([str(value)], float(value == current))
    return family


def _runs(status: Status) -> Metric:
    words = "Runs that this instance began, by result; an interrupted run lost its session or the lock."
    family = CounterMetricFamily("migration_runs_total", words, labels=["result"])
    for result in RESULTS:
        family.add_metric([result], status.counters.runs.count(result))
    return family


def _contended(status: Status) -> Metric:
    words = "Revisions of this instance's runs that did not acquire a table lock and were rolled back."
    return CounterMetricFamily("migration_lock_contended_total", words, status.counters.contended)


def _steps(status: Status) -> Metric:
    took = status.counters.step_seconds
    buckets = [(str(bound), float(sum(each <= bound for each in took))) for bound in STEP_BUCKETS_SECONDS]
    buckets.append(("+Inf", float(len(took))))
    words = "Duration of each revision that this instance finished."
    return HistogramMetricFamily("migration_revision_duration_seconds", words, buckets=buckets, sum_value=sum(took))
