"""The lifespan in a real application, driven as a server drives it: what is answered when, and what is left behind."""

import asyncio
import logging
import sys
from pathlib import Path

import pytest
from fastapi import FastAPI

from api.migrations import MigrationSettings, lifespan_with_migrations, startup_integration
from api.migrations.core.status import Phase, Tracker
from api.migrations.errors import MigrationError, RevisionFailed
from api.migrations.startup_integration import MigrationLifespan
from tests.integration.served import Pool, Served, service, settings
from tests.support.fakes import FOREVER_SECONDS, STOP, barrier, eventually, tree
from tests.support.servers import fetch
from tests.support.waiting import wait_until

CREATE = 'op.execute("CREATE TABLE t (a int)")'
STOPS = f'op.execute("{STOP}")'


async def test_one_line_is_all_a_service_needs(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`FastAPI(lifespan=lifespan_with_migrations)`, and the settings come from the environment."""
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("MIGRATION_ALEMBIC_CONFIG", str(tree(tmp_path, CREATE)))
    async with Served(service(lifespan_with_migrations)) as served:
        await served.opened()
        assert (await served.get("/")).json() == {"pool": None}
        body = (await served.get("/health/migrations")).json()
    assert (body["status"], body["state"], body["phase"]) == ("pass", "at_head", "ready")
    assert (body["last_run"]["result"], body["last_run"]["applied"]) == ("applied", ["r1"])
    assert [row[0] for row in await fetch(database_url, "SELECT version_num FROM alembic_version")] == ["r1"]


async def test_while_it_migrates_only_the_probes_answer(database_url: str, tmp_path: Path) -> None:
    """The server is up; a route that takes every path does not swallow the probes."""
    app = service(lifespan_with_migrations(settings=settings(database_url, tree(tmp_path, STOPS))))
    async with barrier(database_url) as reached, Served(app) as served:
        await reached()
        answers = {
            path: await served.get(path) for path in ("/", "/health/live", "/health/ready", "/health/migrations")
        }
        assert [answer.status_code for answer in answers.values()] == [503, 200, 503, 503]
        body = answers["/health/migrations"].json()
        assert (body["phase"], body["progress"]["current"], body["lock"]["held"]) == ("migrating", "r1", True)
        assert answers["/"].headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("mode", ["gate", "block"])
async def test_what_follows_starts_on_a_verified_schema(database_url: str, tmp_path: Path, mode: str) -> None:
    """Its state reaches the requests, and it is left at shutdown in the task that entered it."""
    pool = Pool()
    values = settings(database_url, tree(tmp_path, CREATE), startup_mode=mode)
    async with Served(service(lifespan_with_migrations(settings=values).then(pool.lifespan))) as served:
        await served.opened()
        assert (await served.get("/")).json() == {"pool": "of connections"}
    (entered, left) = pool.notes
    assert (entered[0], left[0], entered[1]) == ("enter", "leave", True)
    assert entered[2] is left[2]


async def test_readiness_waits_for_what_follows(database_url: str, tmp_path: Path) -> None:
    """A load balancer must not send requests to a gate that is still shut."""
    pool = Pool()
    pool.may_start.clear()
    values = settings(database_url, tree(tmp_path, CREATE))
    async with Served(service(lifespan_with_migrations(settings=values, then=pool.lifespan))) as served:
        await pool.entered.wait()
        assert [(await served.get(path)).status_code for path in ("/", "/health/ready")] == [503, 503]
        pool.may_start.set()
        await served.opened()
        assert [(await served.get(path)).status_code for path in ("/", "/health/ready")] == [200, 200]


async def test_a_failure_in_mode_gate_stays_visible(database_url: str, tmp_path: Path) -> None:
    """With MIGRATION_ON_FAILURE=hold the process lives, unready, and what follows never starts."""
    pool = Pool()
    values = settings(database_url, tree(tmp_path, 'raise ValueError("boom")'))
    async with Served(service(lifespan_with_migrations(settings=values, then=pool.lifespan))) as served:
        tracker = served.app.state.migrations
        failed = lambda: tracker.status.phase == "failed"  # noqa: E731 - a condition to wait for
        await asyncio.to_thread(wait_until, failed, "the failure", seconds=FOREVER_SECONDS)
        answer = await served.get("/health/migrations")
        assert (answer.status_code, answer.json()["last_run"]["result"]) == (503, "failed")
        assert "boom" in answer.json()["message"]
        assert "boom" not in (await served.get("/")).text
    assert pool.notes == []


async def test_a_failure_in_mode_block_fails_the_start(database_url: str, tmp_path: Path) -> None:
    """The server gets the error itself."""
    values = settings(database_url, tree(tmp_path, 'raise ValueError("boom")'), startup_mode="block", on_failure="exit")
    with pytest.raises(RevisionFailed, match="boom"):
        async with Served(service(lifespan_with_migrations(settings=values))):
            pytest.fail("it must not start")


BUGS = [KeyError("bug"), asyncio.CancelledError("bug"), SystemExit("bug")]


def broken_by(bug: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    """A start that ends in mid-run with what the package has no name for."""

    async def migrate_at_startup(settings: MigrationSettings, tracker: Tracker, *_: object) -> None:
        tracker.move(Phase.CHECKING)
        tracker.move(Phase.MIGRATING)
        raise bug

    monkeypatch.setattr(startup_integration, "migrate_at_startup", migrate_at_startup)


@pytest.mark.parametrize("bug", BUGS, ids=repr)
@pytest.mark.parametrize("mode", ["gate", "block"])
async def test_a_bug_of_the_package_is_a_failure_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, mode: str, bug: BaseException
) -> None:
    """It is shown and called what it is; the instance does not seem to migrate for ever, nor the service to blame."""
    broken_by(bug, monkeypatch)
    values = settings("sqlite:////nowhere.db", tmp_path / "none.ini", startup_mode=mode)
    async with Served(service(lifespan_with_migrations(settings=values))) as served:
        tracker = served.app.state.migrations
        failed = lambda: tracker.status.phase == "failed"  # noqa: E731 - a condition to wait for
        await asyncio.to_thread(wait_until, failed, "the failure", seconds=FOREVER_SECONDS)
        answers = [await served.get(path) for path in ("/", "/health/migrations")]
    assert [answer.status_code for answer in answers] == [503, 503]
    assert answers[1].json()["message"].startswith(f"unexpected: {type(bug).__name__}")
    events = [getattr(record, "event", "") for record in caplog.records if record.levelname == "ERROR"]
    assert events == ["bug"]


async def test_a_bug_of_the_package_fails_the_start_in_mode_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MIGRATION_ON_FAILURE=exit holds for it as for any failure."""
    broken_by(KeyError("bug"), monkeypatch)
    values = settings("sqlite:////nowhere.db", tmp_path / "none.ini", startup_mode="block", on_failure="exit")
    with pytest.raises(MigrationError, match="unexpected: KeyError"):
        async with Served(service(lifespan_with_migrations(settings=values))):
            pytest.fail("it must not start")


async def test_shutdown_in_mid_run_leaves_nothing_behind(database_url: str, tmp_path: Path) -> None:
    """Neither lock nor version, and what follows was never entered."""
    pool = Pool()
    values = settings(database_url, tree(tmp_path, f"{CREATE}\n{STOPS}"))
    async with barrier(database_url) as reached:
        async with Served(service(lifespan_with_migrations(settings=values, then=pool.lifespan))):
            await reached()
        ours = "SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name LIKE 'migrations:%'"
        await eventually(database_url, ours, "the session gone")
    assert await fetch(database_url, "SELECT * FROM alembic_version") == []
    assert (await fetch(database_url, "SELECT to_regclass('t')"))[0][0] is None
    assert pool.notes == []


async def test_metrics_pass_the_gate_and_do_not_outrun_it(database_url: str, tmp_path: Path) -> None:
    """While it migrates they say so; ready is what serves, as in the health endpoints."""
    app = service(lifespan_with_migrations(settings=settings(database_url, tree(tmp_path, STOPS))))
    async with barrier(database_url) as reached, Served(app) as served:
        await reached()
        answer = await served.get("/metrics")
        assert answer.status_code == 200
        assert 'migration_phase{phase="migrating"} 1.0' in answer.text
        assert "migration_lock_held 1.0" in answer.text
        assert "migration_ready 0.0" in answer.text


async def test_an_application_keeps_its_own_metrics() -> None:
    """Its route was there first, and wins."""
    app = FastAPI(lifespan=lifespan_with_migrations(settings=MigrationSettings.load(strategy="off")))
    app.add_api_route("/metrics", lambda: "mine")
    async with Served(app) as served:
        await served.opened()
        assert (await served.get("/metrics")).json() == "mine"


async def test_without_the_client_there_are_no_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything else is as it is with it."""
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    app = FastAPI(lifespan=lifespan_with_migrations(settings=MigrationSettings.load(strategy="off")))
    async with Served(app) as served:
        await served.opened()
        answers = [(await served.get(path)).status_code for path in ("/metrics", "/health/ready")]
    assert answers == [404, 200]


async def test_off_serves_without_a_database() -> None:
    """MIGRATION_STRATEGY=off: nothing is checked, and it says so."""
    values = MigrationSettings.load(strategy="off")
    async with Served(service(lifespan_with_migrations(settings=values))) as served:
        await served.opened()
        assert (await served.get("/")).status_code == 200
        assert (await served.get("/health/migrations")).json()["phase"] == "off"


async def test_the_lifespan_is_a_value() -> None:
    """`then` and settings make a new one; the one that everybody imports stays as it is."""
    other = lifespan_with_migrations.then(Pool().lifespan)
    assert other is not lifespan_with_migrations
    assert vars(lifespan_with_migrations) == vars(MigrationLifespan())


async def test_the_service_s_logging_is_untouched(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No logger is disabled, and a root without handlers stays so: only the package gets one of its own."""
    root, theirs, ours = (logging.getLogger(name) for name in (None, "theirs", "api.migrations"))
    theirs.setLevel(logging.WARNING)
    with monkeypatch.context() as patch:
        patch.setattr(root, "handlers", [])
        for name, value in {"handlers": [], "level": logging.NOTSET, "propagate": True}.items():
            patch.setattr(ours, name, value)
        values = settings(database_url, tree(tmp_path, CREATE))
        async with Served(service(lifespan_with_migrations(settings=values))) as served:
            await served.opened()
        assert (root.handlers, theirs.handlers, theirs.level, theirs.disabled) == ([], [], logging.WARNING, False)
        assert (len(ours.handlers), ours.getEffectiveLevel()) == (1, logging.INFO)
    ours.setLevel(ours.level)  # clears what the loggers remember of it


@pytest.mark.parametrize("given", [False, True])
async def test_a_misspelt_variable_is_warned_of_at_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, given: bool
) -> None:
    """Once, by its name; nothing is said where the settings are given in code."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MIGRATION_STRATEGY", "off")
    monkeypatch.setenv("MIGRATION_STATEGY", "geh3im")
    values = MigrationSettings.load() if given else None
    async with Served(service(lifespan_with_migrations(settings=values))) as served:
        await served.opened()
    told = [record.getMessage() for record in caplog.records if vars(record).get("event") == "unread_setting"]
    assert len(told) == (0 if given else 1)
    assert ["did you mean MIGRATION_STRATEGY?" in line for line in told] == [True] * len(told)
    assert "geh3im" not in caplog.text
