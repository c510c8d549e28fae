"""The lifespan in an application without a server: its answers before, during and after the migration."""

import asyncio
import logging
import re
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


async def test_one_line_adds_the_migration_to_a_service(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service sets only the lifespan: settings come from the environment, the database is migrated, health passes."""
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("MIGRATION_ALEMBIC_CONFIG", str(tree(tmp_path, CREATE)))
    async with Served(service(lifespan_with_migrations)) as served:
        await served.opened()
        assert (await served.get("/")).json() == {"pool": None}
        body = (await served.get("/health/migrations")).json()
    assert (body["status"], body["state"], body["phase"]) == ("pass", "at_head", "ready")
    assert (body["last_run"]["result"], body["last_run"]["applied"]) == ("applied", ["r1"])
    assert [row[0] for row in await fetch(database_url, "SELECT version_num FROM alembic_version")] == ["r1"]


async def test_only_probes_are_answered_during_the_migration(database_url: str, tmp_path: Path) -> None:
    """During the migration the probes answer and every other route is 503, even with a route for all paths."""
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
async def test_the_next_lifespan_starts_on_a_verified_schema(database_url: str, tmp_path: Path, mode: str) -> None:
    """The next lifespan starts after the migration, its state reaches requests, and one task enters and leaves it."""
    pool = Pool()
    values = settings(database_url, tree(tmp_path, CREATE), startup_mode=mode)
    async with Served(service(lifespan_with_migrations(settings=values).then(pool.lifespan))) as served:
        await served.opened()
        assert (await served.get("/")).json() == {"pool": "of connections"}
    (entered, left) = pool.notes
    assert (entered[0], left[0], entered[1]) == ("enter", "leave", True)
    assert entered[2] is left[2]


async def test_readiness_waits_for_the_next_lifespan(database_url: str, tmp_path: Path) -> None:
    """The next lifespan has not started yet: `/health/ready` answers 503, because the gate is still closed."""
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
    """With MIGRATION_ON_FAILURE=hold a failed instance stays up unready, and the next lifespan never starts."""
    pool = Pool()
    values = settings(database_url, tree(tmp_path, 'raise ValueError("boom")'))
    async with Served(service(lifespan_with_migrations(settings=values, then=pool.lifespan))) as served:
        tracker = served.app.state.migrations
        failed = lambda: tracker.status.phase == "failed"  # noqa: E731 - a condition to wait for
        await asyncio.to_thread(wait_until, failed, "the failure", seconds=FOREVER_SECONDS)
        answer = await served.get("/health/migrations")
        assert (answer.status_code, answer.json()["last_run"]["result"]) == (503, "failed")
        assert re.search(
            r"r1 failed and was rolled back: ValueError: the text is in the log, at r1.py:\d+", answer.text
        )
        assert "boom" not in answer.text + (await served.get("/")).text
    assert pool.notes == []


async def test_a_failure_in_mode_block_fails_the_start(database_url: str, tmp_path: Path) -> None:
    """A revision fails in mode `block`: the start raises that error to the server, which prints it as it is."""
    ini = tree(tmp_path, 'raise ValueError("boom \\x1b[2J")')
    values = settings(database_url, ini, startup_mode="block", on_failure="exit")
    with pytest.raises(RevisionFailed, match=r"boom \\x1b\[2J"):
        async with Served(service(lifespan_with_migrations(settings=values))):
            pytest.fail("it must not start")


BUGS = [KeyError("bug"), asyncio.CancelledError("bug"), SystemExit("bug")]


def broken_by(bug: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the start raise `bug` in mid-run."""

    async def migrate_or_hold(databases: object, tracker: Tracker, *_: object) -> None:
        tracker.move(Phase.CHECKING)
        tracker.move(Phase.MIGRATING)
        raise bug

    monkeypatch.setattr(startup_integration, "migrate_or_hold", migrate_or_hold)


@pytest.mark.parametrize("bug", BUGS, ids=repr)
@pytest.mark.parametrize("mode", ["gate", "block"])
async def test_an_unexpected_error_is_reported_as_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, mode: str, bug: BaseException
) -> None:
    """The package raises an unexpected error: the instance is failed, the health names the error, and it is logged."""
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


async def test_an_unexpected_error_fails_the_start_in_mode_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With MIGRATION_ON_FAILURE=exit and mode `block` an unexpected error fails the start."""
    broken_by(KeyError("bug"), monkeypatch)
    values = settings("sqlite:////nowhere.db", tmp_path / "none.ini", startup_mode="block", on_failure="exit")
    with pytest.raises(MigrationError, match="unexpected: KeyError"):
        async with Served(service(lifespan_with_migrations(settings=values))):
            pytest.fail("it must not start")


async def test_a_shutdown_in_mid_run_leaves_nothing_behind(database_url: str, tmp_path: Path) -> None:
    """The server stops in mid-revision: no session, version or table is left, and the next lifespan never started."""
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


async def test_metrics_are_served_during_the_migration(database_url: str, tmp_path: Path) -> None:
    """During the migration `/metrics` answers: the phase is `migrating`, the lock is held and ready is 0."""
    app = service(lifespan_with_migrations(settings=settings(database_url, tree(tmp_path, STOPS))))
    async with barrier(database_url) as reached, Served(app) as served:
        await reached()
        answer = await served.get("/metrics")
        assert answer.status_code == 200
        assert 'migration_phase{phase="migrating"} 1.0' in answer.text
        assert "migration_lock_held 1.0" in answer.text
        assert "migration_ready 0.0" in answer.text


async def test_an_application_keeps_its_own_metrics_route() -> None:
    """An application has its own `/metrics` route: the package does not replace it."""
    app = FastAPI(lifespan=lifespan_with_migrations(settings=MigrationSettings.load(strategy="off")))
    app.add_api_route("/metrics", lambda: "mine")
    async with Served(app) as served:
        await served.opened()
        assert (await served.get("/metrics")).json() == "mine"


async def test_metrics_are_404_without_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """prometheus_client is not installed: `/metrics` is 404 and the instance becomes ready."""
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    app = FastAPI(lifespan=lifespan_with_migrations(settings=MigrationSettings.load(strategy="off")))
    async with Served(app) as served:
        await served.opened()
        answers = [(await served.get(path)).status_code for path in ("/metrics", "/health/ready")]
    assert answers == [404, 200]


async def test_strategy_off_serves_without_a_database() -> None:
    """With MIGRATION_STRATEGY=off an instance serves without a database, and its phase is `off`."""
    values = MigrationSettings.load(strategy="off")
    async with Served(service(lifespan_with_migrations(settings=values))) as served:
        await served.opened()
        assert (await served.get("/")).status_code == 200
        assert (await served.get("/health/migrations")).json()["phase"] == "off"


async def test_then_returns_a_new_lifespan() -> None:
    """`then` returns a new lifespan and leaves the imported one unchanged."""
    other = lifespan_with_migrations.then(Pool().lifespan)
    assert other is not lifespan_with_migrations
    assert vars(lifespan_with_migrations) == vars(MigrationLifespan())


async def test_the_service_s_logging_is_unchanged(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A start changes no logger of the service; only the package's logger gets a handler."""
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
    ours.setLevel(ours.level)  # clears the loggers' cache of levels


@pytest.mark.parametrize("given", [False, True])
async def test_a_misspelt_variable_is_logged_once_at_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, given: bool
) -> None:
    """A variable is misspelt: the start logs one warning with its name, or none if the settings are given in code."""
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
