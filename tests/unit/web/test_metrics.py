"""What `/metrics` shows of a status: the values, and that every series is there from the first scrape on."""

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace

import httpx
import pytest
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette

from api.migrations.core.coordinator import Coordinator, Scope
from api.migrations.core.decision import Policy
from api.migrations.core.protocols import MigrationRequest, ProgressListener
from api.migrations.core.reporter import ProgressReporter
from api.migrations.core.schema import CodeRevisions, Observed, Schema, SchemaState
from api.migrations.core.status import Counters, Holder, LastRun, LockStatus, Phase, Progress, Status, Tracker
from api.migrations.errors import DatabaseUnreachable
from api.migrations.web.metrics import RESULTS, MigrationCollector, route
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
        """The value of `migration_<name>`, which must be there."""
        value = self.registry.get_sample_value(f"migration_{name}", labels)
        assert value is not None, f"{name} {labels}"
        return value

    def series(self) -> set[tuple[str, tuple[tuple[str, str], ...]]]:
        """Names and labels of everything but the info, whose labels are its values."""
        families = self.registry.collect()
        samples = [sample for family in families for sample in family.samples if sample.name != "migration_info"]
        return {(sample.name, tuple(sorted(sample.labels.items()))) for sample in samples}


def on(labels: Mapping[str, float]) -> str:
    """The one value of a state set that is 1."""
    (name,) = [name for name, value in labels.items() if value == 1]
    assert set(labels.values()) <= {0.0, 1.0}
    return name


@pytest.mark.parametrize("phase", list(Phase))
@pytest.mark.parametrize("state", list(SchemaState))
def test_one_phase_and_one_state_are_on(phase: Phase, state: SchemaState) -> None:
    """The others are 0, not missing; ready and up to date follow from them."""
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
    schema=Schema(SchemaState.BEHIND, frozenset("ba"), frozenset("d"), ("c", "d")),
    progress=Progress(1, 3, "c", 940.0),
    lock_status=LockStatus(Holder("web-1", 4242, 930.0, "active")),
    invalid_indexes=("ix", "iy"),
    waiting_since=950.0,
    last_success=700.0,
    last_failure=800.0,
    counters=Counters(("interrupted", "failed", "interrupted"), 4, (0.05, 0.1, 2.0, 4000.0)),
)


def test_a_fresh_status_has_every_series_at_zero() -> None:
    """What is first seen at 1 does not fire `increase()`; a full status adds no series to those of a fresh one."""
    fresh = Scraped(Status())
    assert fresh.series() == Scraped(FULL).series()
    assert [fresh("runs_total", result=result) for result in RESULTS] == [0, 0, 0]
    zeros = "up_to_date pending_revisions in_progress started_timestamp_seconds run_seconds lock_contended_total"
    history = "last_success_timestamp_seconds last_failure_timestamp_seconds"
    assert {fresh(name) for name in f"{zeros} {history}".split()} == {0.0}


def test_the_values_of_one_that_waits() -> None:
    """Durations end now; timestamps are those of the history."""
    scraped = Scraped(FULL)
    values = {
        "pending_revisions": 2,
        "in_progress": 1,
        "lock_held": 0,
        "lock_holder_age_seconds": 70,
        "lock_wait_seconds": 50,
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


def test_nobody_waits_or_migrates_any_more_once_it_is_ready() -> None:
    """What was waited for is over, and the run does not grow longer."""
    scraped = Scraped(replace(FULL, phase=Phase.READY, since=990.0))
    assert [scraped(name) for name in ("in_progress", "lock_wait_seconds", "lock_holder_age_seconds")] == [0, 0, 0]
    assert scraped("run_seconds") == 50


def test_its_own_failure_counts_although_it_does_not_look_again() -> None:
    """The history was read before the run; the run's end is known from memory, and does not move."""
    run = LastRun("failed", "web-2", 940.0, 970.0, (), "boom")
    scraped = Scraped(replace(FULL, phase=Phase.FAILED, since=980.0, last_run=run))
    assert (scraped("last_failure_timestamp_seconds"), scraped("run_seconds")) == (970, 30)
    applied = Scraped(replace(FULL, last_run=replace(run, result="applied")))
    assert applied("last_failure_timestamp_seconds") == 800


def test_a_server_whose_clock_is_ahead_makes_nothing_negative() -> None:
    """The holder's age is by the server's clock."""
    assert Scraped(replace(FULL, lock_status=LockStatus(Holder("web-1", 1, 2000.0))))("lock_holder_age_seconds") == 0


def test_a_run_is_counted_by_its_steps() -> None:
    """What the reporter hears: contention, each step's duration, and how it ended."""
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


async def test_a_lost_session_is_an_interrupted_run_and_the_next_one_counts_too() -> None:
    """One database, one instance: the first run loses its connection, the second is done."""
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


async def test_what_the_history_knows_comes_with_the_look() -> None:
    """An instance that finds the schema at head shows the failure of the one before it."""
    database, tracker = Database(LINE, FakeClock()), Tracker()
    database.observed = Observed(frozenset("b"), last_success=10.0, last_failure=20.0)
    sessions = lambda: database.session("one")  # noqa: E731 - one line is all it is
    await Coordinator([Scope(sessions, LINE)], tracker, Policy(), database.clock).become_ready()
    scraped = Scraped(tracker.status)
    names = ("last_success_timestamp_seconds", "last_failure_timestamp_seconds")
    assert [scraped(name) for name in names] == [10, 20]


async def get(accept: str) -> httpx.Response:
    """Scrape an application that has the route and nothing else."""
    transport = httpx.ASGITransport(Starlette(routes=[route(lambda: FULL)]))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        return await client.get("/metrics", headers={"Accept": accept})


async def test_the_scraper_gets_the_format_that_it_asks_for() -> None:
    """Both formats, with nothing of the process's own registry in it, and never from a cache."""
    plain, openmetrics = await get("text/plain"), await get("application/openmetrics-text;version=1.0.0")
    assert plain.headers["Content-Type"].startswith("text/plain")
    assert openmetrics.headers["Content-Type"].startswith("application/openmetrics-text")
    assert openmetrics.text.endswith("# EOF\n")
    assert "python_info" not in plain.text
    assert (plain.status_code, plain.headers["Cache-Control"]) == (200, "no-store")


def test_an_application_can_register_the_collector_in_its_own_registry() -> None:
    """At import already, when there is no status yet; later it reads the instance's."""
    app, registry = Starlette(), CollectorRegistry(auto_describe=True)
    registry.register(MigrationCollector.of(app))
    assert registry.get_sample_value("migration_ready") == 0
    app.state.migrations = Tracker(phase=Phase.READY)
    assert registry.get_sample_value("migration_ready") == 1


def test_the_package_does_not_need_the_client() -> None:
    """Like rich it is optional: without it everything is imported but `metrics`."""
    program = "import sys; sys.modules['prometheus_client'] = None; import api.main; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "api.migrations.web.health" in done.stdout
    assert "api.migrations.web.metrics" not in done.stdout
