"""`/metrics` has the values of a status, with every series from the first scrape on."""

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace

import httpx
import pytest
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette

from api.migrations.core.coordinator import Coordinator
from api.migrations.core.decision import Policy
from api.migrations.core.protocols import MigrationRequest, ProgressListener
from api.migrations.core.reporter import ProgressReporter
from api.migrations.core.schema import CodeRevisions, Observed, Schema, SchemaState
from api.migrations.core.scope import Scope
from api.migrations.core.status import Counters, Holder, LastRun, Limit, LockStatus, Phase, Progress, Status, Tracker
from api.migrations.errors import DatabaseUnreachable
from api.migrations.parts import new_tracker
from api.migrations.settings import MigrationSettings
from api.migrations.web.install import metrics_route
from api.migrations.web.metrics import RESULTS, MigrationCollector
from tests.support.fakes import Database, FakeClock, FakeSession, Instance, apply_all
from tests.support.project import ROOT

NOW = 1000.0
LINE = CodeRevisions({"a": frozenset(), "b": frozenset("a")}, frozenset("b"))


class Scraped:
    """The samples of one scrape, by short name and labels."""

    def __init__(self, status: Status) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(MigrationCollector(lambda: status, lambda: NOW))

    def __call__(self, name: str, **labels: str) -> float:
        """Return the value of `migration_<name>`, which must exist."""
        value = self.registry.get_sample_value(f"migration_{name}", labels)
        assert value is not None, f"{name} {labels}"
        return value

    def series(self) -> set[tuple[str, tuple[tuple[str, str], ...]]]:
        """Return names and labels of everything but the info, whose labels are its values."""
        families = self.registry.collect()
        samples = [sample for family in families for sample in family.samples if sample.name != "migration_info"]
        return {(sample.name, tuple(sorted(sample.labels.items()))) for sample in samples}


def on(labels: Mapping[str, float]) -> str:
    """Return the one value of a state set that is 1."""
    (name,) = [name for name, value in labels.items() if value == 1]
    assert set(labels.values()) <= {0.0, 1.0}
    return name


@pytest.mark.parametrize("phase", list(Phase))
@pytest.mark.parametrize("state", list(SchemaState))
def test_exactly_one_phase_and_one_state_are_1(phase: Phase, state: SchemaState) -> None:
    """The metrics of the current phase and state are 1, and those of all others are 0."""
    scraped = Scraped(Status(phase, schema=Schema(state)))
    assert on({each: scraped("phase", phase=each) for each in Phase}) == phase
    assert on({each: scraped("schema_state", state=each) for each in SchemaState}) == state
    assert scraped("ready") == (phase in {Phase.READY, Phase.OFF})
    assert scraped("up_to_date") == (state in {SchemaState.AT_HEAD, SchemaState.AHEAD})
    assert scraped("lock_held") == (phase is Phase.MIGRATING)


FULL = Status(
    Phase.WAITING,
    since=900.0,
    instance="web-2",
    release="v7",
    strategy="advisory_lock",
    wait_budget_seconds=600.0,
    run_budget_seconds=90.0,
    schema=Schema(SchemaState.BEHIND, frozenset("ba"), frozenset("d"), ("c", "d")),
    progress=Progress(1, 3, "c", 940.0),
    lock_status=LockStatus(Holder("web-1", 4242, 930.0, "active")),
    blocked_since=965.0,
    blocked_at=975.0,
    invalid_indexes=("ix", "iy"),
    waiting_since=950.0,
    last_success=700.0,
    last_failure=800.0,
    counters=Counters(("interrupted", "failed", "interrupted"), 4, (0.05, 0.1, 2.0, 4000.0)),
)


def test_a_fresh_status_has_every_series_at_zero() -> None:
    """A fresh status has every series of a full one, with the value 0, so that `increase()` sees the first event."""
    fresh = Scraped(Status())
    assert fresh.series() == Scraped(FULL).series()
    assert [fresh("runs_total", result=result) for result in RESULTS] == [0, 0, 0]
    zeros = "up_to_date pending_revisions in_progress started_timestamp_seconds run_seconds lock_contended_total"
    history = "blocked_seconds last_success_timestamp_seconds last_failure_timestamp_seconds"
    assert {fresh(name) for name in f"{zeros} {history}".split()} == {0.0}


def test_a_waiter_s_metrics_have_the_values_of_its_status() -> None:
    """The metrics of a waiter have the durations up to now, the history's timestamps and the counters."""
    scraped = Scraped(FULL)
    values = {
        "pending_revisions": 2,
        "in_progress": 1,
        "lock_held": 0,
        "lock_holder_age_seconds": 70,
        "lock_wait_seconds": 50,
        "wait_budget_seconds": 600,
        "run_budget_seconds": 90,
        "blocked_seconds": 35,
        "started_timestamp_seconds": 940,
        "run_seconds": 60,
        "invalid_indexes": 2,
        "last_success_timestamp_seconds": 700,
        "last_failure_timestamp_seconds": 800,
        "lock_contended_total": 4,
        "revision_duration_seconds_count": 4,
        "revision_duration_seconds_sum": 4002.15,
    }
    assert {name: scraped(name) for name in values} == values
    assert [scraped("runs_total", result=result) for result in RESULTS] == [0, 1, 2]
    bounds = ("0.1", "1.0", "10.0", "1800.0", "+Inf")
    assert [scraped("revision_duration_seconds_bucket", le=bound) for bound in bounds] == [2, 2, 3, 3, 4]
    labels = {"instance_name": "web-2", "release": "v7", "strategy": "advisory_lock", "heads": "d"}
    assert scraped("info", **labels, database_revisions="a,b") == 1


def test_a_ready_instance_s_durations_stand_still() -> None:
    """A ready instance neither waits nor migrates, and the seconds of its run do not grow."""
    scraped = Scraped(replace(FULL, phase=Phase.READY, since=990.0))
    still = ("in_progress", "lock_wait_seconds", "lock_holder_age_seconds", "blocked_seconds")
    assert [scraped(name) for name in still] == [0, 0, 0, 0]
    assert scraped("run_seconds") == 50


def test_the_last_failure_includes_the_instance_s_own_run() -> None:
    """The last failure is that of the instance's own run, which is newer than its read of the history."""
    run = LastRun("failed", "web-2", 940.0, 970.0, (), "boom")
    scraped = Scraped(replace(FULL, phase=Phase.FAILED, since=980.0, last_run=run))
    assert (scraped("last_failure_timestamp_seconds"), scraped("run_seconds")) == (970, 30)
    applied = Scraped(replace(FULL, last_run=replace(run, result="applied")))
    assert applied("last_failure_timestamp_seconds") == 800


def test_the_deadline_exists_only_while_one_counts_down() -> None:
    """The deadline is the moment at which the wait or run gives up; without one it has a description and no sample."""
    name = "migration_deadline_timestamp_seconds"
    limited = Scraped(replace(FULL, limit=Limit(1300.5, "MIGRATION_WAIT_SECONDS")))
    assert limited.registry.get_sample_value(name) == 1300.5
    assert name in {family.name for family in Scraped(FULL).registry.collect()}
    assert Scraped(FULL).registry.get_sample_value(name) is None


def test_a_tracker_begins_with_the_budgets_of_the_settings() -> None:
    """The budgets that an instance exports are those of its settings."""
    url = "postgresql://localhost/ledger"
    settings = MigrationSettings.load(_env_file=None, database_url=url, wait_seconds=80, run_seconds=60)
    scraped = Scraped(new_tracker(settings).status)
    assert (scraped("wait_budget_seconds"), scraped("run_budget_seconds")) == (80, 60)


def test_a_holder_s_age_is_not_negative() -> None:
    """The lock holder's age is 0 if the server's clock is ahead."""
    assert Scraped(replace(FULL, lock_status=LockStatus(Holder("web-1", 1, 2000.0))))("lock_holder_age_seconds") == 0


def test_a_run_counts_contention_revisions_and_result() -> None:
    """A run adds its contended attempts, the duration of each revision and its result to the metrics."""
    tracker = Tracker()
    reporter = ProgressReporter(tracker)
    reporter.planned(("a", "b"), "Applied")
    for revision in ("a", "b"):
        reporter.started(revision)
        reporter.contended(revision, 1, 0.5, ())
        reporter.finished(revision)
    reporter.ended("applied")
    scraped = Scraped(tracker.status)
    assert (scraped("lock_contended_total"), scraped("revision_duration_seconds_count")) == (2, 2)
    assert scraped("runs_total", result="applied") == 1


async def test_a_lost_connection_counts_as_an_interrupted_run() -> None:
    """A run that loses its connection counts as interrupted, and the retry counts as applied."""
    database = Database(LINE, FakeClock())
    lost = iter([True])

    async def work(session: FakeSession, order: MigrationRequest, report: ProgressListener) -> None:
        if next(lost, False):
            raise DatabaseUnreachable("the server closed the connection")
        await apply_all(session, order, report)

    database.work = work
    instance = Instance(database)
    await instance.coordinator.become_ready()
    scraped = Scraped(instance.tracker.status)
    assert [scraped("runs_total", result=result) for result in RESULTS] == [1, 0, 1]
    assert (scraped("up_to_date"), scraped("pending_revisions"), scraped("ready")) == (1, 0, 1)


async def test_an_instance_at_head_shows_earlier_runs() -> None:
    """An instance at head shows the last success and the last failure from the history."""
    database, tracker = Database(LINE, FakeClock()), Tracker()
    database.observed = Observed(frozenset("b"), last_success=10.0, last_failure=20.0)
    sessions = lambda: database.session("one")  # noqa: E731 - one line is all it is
    await Coordinator([Scope(sessions, LINE, Policy())], tracker, Policy(), database.clock).become_ready()
    scraped = Scraped(tracker.status)
    names = ("last_success_timestamp_seconds", "last_failure_timestamp_seconds")
    assert [scraped(name) for name in names] == [10, 20]


async def get(accept: str) -> httpx.Response:
    """Scrape an application that has only the metrics route."""
    transport = httpx.ASGITransport(Starlette(routes=[metrics_route(lambda: FULL)]))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        return await client.get("/metrics", headers={"Accept": accept})


async def test_the_scraper_gets_the_format_that_it_accepts() -> None:
    """The scraper gets text or OpenMetrics by its Accept header, uncached, without the process's own metrics."""
    plain, openmetrics = await get("text/plain"), await get("application/openmetrics-text;version=1.0.0")
    assert plain.headers["Content-Type"].startswith("text/plain")
    assert openmetrics.headers["Content-Type"].startswith("application/openmetrics-text")
    assert openmetrics.text.endswith("# EOF\n")
    assert "python_info" not in plain.text
    assert (plain.status_code, plain.headers["Cache-Control"]) == (200, "no-store")


def test_an_application_can_register_the_collector_in_its_own_registry() -> None:
    """An application registers the collector at import, and it shows the instance's status later."""
    app, registry = Starlette(), CollectorRegistry(auto_describe=True)
    registry.register(MigrationCollector.of(app))
    assert registry.get_sample_value("migration_ready") == 0
    app.state.migrations = Tracker(phase=Phase.READY)
    assert registry.get_sample_value("migration_ready") == 1


def test_the_package_runs_without_the_prometheus_client() -> None:
    """The service is imported without prometheus_client, and only `metrics` is left out."""
    program = "import sys; sys.modules['prometheus_client'] = None; import api.main; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "api.migrations.web.health" in done.stdout
    assert "api.migrations.web.metrics" not in done.stdout
