"""A held instance looks at the database after its failure, and becomes ready when another run has corrected it."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from api.migrations import lifespan_with_migrations, startup
from api.migrations.core.schema import Schema, SchemaState
from api.migrations.core.status import Holder, LockStatus, Status, Tracker
from tests.integration.served import Pool, Served, service, settings
from tests.support.fakes import FOREVER_SECONDS, STOP, assembled, barrier, tree
from tests.support.servers import fetch
from tests.support.waiting import wait_until

OWN = """
import sqlalchemy as sa
from alembic import context

with sa.create_engine({url!r}, poolclass=sa.NullPool).connect() as connection:
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()
"""
NEEDS_A_TABLE = f'op.execute("INSERT INTO by_hand VALUES (1)")\nop.execute("{STOP}")'


async def until(served: Served, seen: Callable[[Status], bool], what: str) -> Status:
    """Wait until the status of the instance is so, and return it."""
    tracker = served.app.state.migrations
    await asyncio.to_thread(wait_until, lambda: seen(tracker.status), what, seconds=FOREVER_SECONDS)
    status: Status = tracker.status
    return status


@pytest.mark.parametrize("mode", ["gate", "block"])
async def test_a_held_instance_recovers_when_a_person_has_upgraded(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, mode: str
) -> None:
    """A revision fails, and a person upgrades after a correction: the held instance shows that run and is ready."""
    monkeypatch.setattr(startup, "LOOK_EVERY_SECONDS", 0.1)
    caplog.set_level("INFO")
    pool, ini = Pool(), tree(tmp_path, NEEDS_A_TABLE)
    values = settings(database_url, ini, startup_mode=mode)
    async with Served(service(lifespan_with_migrations(settings=values, then=pool.lifespan))) as served:
        failed = await until(served, lambda status: status.held and bool(status.recent), "a look after the failure")
        assert (failed.phase, failed.limit, failed.progress.current) == ("failed", None, None)
        assert failed.read_at is not None
        assert failed.read_at > failed.since
        assert (pool.notes, (await served.get("/health/ready")).status_code) == ([], 503)
        await fetch(database_url, "CREATE TABLE by_hand (n int)")
        async with barrier(database_url) as reached:
            upgrade = asyncio.create_task(assembled(database_url, ini, "person").coordinator().become_ready())
            await reached()
            seen = await until(served, lambda status: status.lock_status.holder is not None, "the run seen")
            assert (seen.phase, seen.lock_status.holder and seen.lock_status.holder.instance) == ("failed", "person")
        await upgrade
        await served.opened()
        assert (await served.get("/")).json() == {"pool": "of connections"}
        ready: Status = served.app.state.migrations.status
        assert (ready.phase, ready.message, ready.held, ready.lock_status.holder) == ("ready", None, False, None)
    events = [vars(record).get("event") for record in caplog.records]
    assert [event for event in events if event in {"failed", "held", "recovered"}] == ["failed", "held", "recovered"]
    outcomes = await fetch(database_url, "SELECT instance, outcome FROM alembic_version_history ORDER BY id")
    assert [tuple(row) for row in outcomes] == [("one", "failed"), ("person", "applied")]


async def test_each_of_several_databases_is_judged_by_its_own_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Only the second database has a function `after`, which fails: at head the instance is held until it has run.

    Of the first database, which is at head all the time, no look logs a line.
    """
    monkeypatch.setattr(startup, "LOOK_EVERY_SECONDS", 0.05)
    caplog.set_level("INFO")
    broken = "tests.integration.test_held:fail"
    found = [(tree(tmp_path / name, "pass"), f"sqlite+aiosqlite:///{tmp_path / name}.db") for name in ("a", "b")]
    values = [settings(url, ini, after=after) for (ini, url), after in zip(found, (None, broken), strict=True)]
    async with Served(service(lifespan_with_migrations(settings=values))) as served:
        first = (await until(served, lambda status: status.held, "the first look")).read_at
        second = (await until(served, lambda status: status.read_at != first, "the second look")).read_at
        failed = await until(served, lambda status: status.read_at not in {first, second}, "the third look")
        assert (failed.phase, failed.schema.state, len(failed.scopes)) == ("failed", "at_head", 2)
        ini, url = found[1]
        person = assembled(url, ini, "person", after=broken.replace("fail", "succeed"))
        await person.coordinator().become_ready()
        await served.opened()
    verified = [record for record in caplog.records if vars(record).get("event") == "schema_verified"]
    assert len(verified) == 1


async def test_a_refused_login_may_be_corrected(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The database does not exist, and env.py connects by itself: the instance keeps looking until both are right."""
    monkeypatch.setattr(startup, "LOOK_EVERY_SECONDS", 0.05)
    url, name = f"{database_url}_later", f"{database_url.rpartition('/')[2]}_later"
    ini = tree(tmp_path, "pass", env=OWN.format(url=url.replace("postgresql://", "postgresql+psycopg://")))
    async with Served(service(lifespan_with_migrations(settings=settings(url, ini)))) as served:
        await until(served, lambda status: status.held, "the looks")
        await fetch(database_url, f'CREATE DATABASE "{name}"')
        await assembled(url, ini, "person").coordinator().become_ready()
        await served.opened()
    await fetch(database_url, f'DROP DATABASE "{name}"')
    errors = [vars(record).get("event") for record in caplog.records if record.levelname == "ERROR"]
    assert errors == ["failed"]


async def test_a_look_that_reads_nothing_keeps_what_is_known(database_url: str, tmp_path: Path) -> None:
    """The server refuses the login of a look: the status keeps the schema and the history that were read before."""
    known = Schema(SchemaState.BEHIND, frozenset("a"), frozenset("b"), ("b",))
    tracker = Tracker(phase="failed", schema=known, read_at=5.0, last_failure=4.0, lock_status=LockStatus(Holder("x")))
    assert not await startup._look(assembled(f"{database_url}_none", tree(tmp_path, "pass")), tracker)
    status = tracker.status
    assert (status.schema, status.read_at, status.last_failure, status.lock_status) == (known, 5.0, 4.0, LockStatus())


async def test_a_held_instance_shows_an_outage(tmp_path: Path) -> None:
    """The database is unreachable: the held instance says since when, keeps the first error, and stops at once."""
    values = settings("postgresql://nobody@127.0.0.1:1/none", tree(tmp_path, "pass"), wait_seconds=1, run_seconds=1)
    async with Served(service(lifespan_with_migrations(settings=values))) as served:
        seen = await until(served, lambda status: status.held and status.reachable is False, "a look at nothing")
        assert seen.message is not None
        assert seen.message.startswith("timed out after MIGRATION_WAIT_SECONDS=1")
        failure = (await served.get("/health/migrations")).json()
        assert (failure["failure"]["held"], failure["database"]["read_at"]) == (True, None)
        assert failure["database"]["unreachable_since"] is not None


async def test_an_invalid_build_is_not_looked_at(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The revisions of a held instance cannot be read: it stays failed, logs that error once, and never looks."""
    values = settings("postgresql://nobody@127.0.0.1:1/none", tmp_path / "none.ini")
    async with Served(service(lifespan_with_migrations(settings=values))) as served:
        failed = await until(served, lambda status: status.phase == "failed", "the failure")
        assert not failed.held
    events = [vars(record).get("event") for record in caplog.records if record.levelname == "ERROR"]
    assert events == ["failed"]


def fail(_: object) -> None:
    """Fail as a function `after`."""
    raise ValueError("boom")


def succeed(_: object) -> None:
    """Succeed as a function `after`."""
