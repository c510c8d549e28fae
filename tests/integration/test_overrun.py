"""A run that exceeds MIGRATION_RUN_SECONDS: no other instance repeats it, and committed work is not called failed."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from api.migrations.core import run_timeout as overrun
from api.migrations.core.protocols import MigrationRequest
from api.migrations.databases.sql_store import SqlStore
from api.migrations.errors import AlreadyFailed, MigrationError, RevisionFailed
from tests.support.fakes import THREE_LINES, assembled, in_the_way, revision, tree
from tests.support.pace import scaled
from tests.support.places import HISTORY, MariaDBPlace, Place, PostgresPlace, history, outcomes, versions
from tests.support.waiting import FOREVER_SECONDS, wait_until

INSTANCES = 8
SECONDS = scaled(2)
LONG = {
    "postgresql": "SELECT pg_sleep(60)",
    "mariadb": "SELECT SLEEP(60)",
    "mysql": "SELECT SLEEP(60)",
    "sqlite": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n",
}
# recording a failure takes 0.3 s, as on a distant server
SLOW_RECORD = f"""
op.execute("CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS "
           "'BEGIN PERFORM pg_sleep(0.3); RETURN NEW; END'")
op.execute("CREATE TRIGGER dawdle BEFORE UPDATE ON {HISTORY} FOR EACH ROW "
           "WHEN (NEW.outcome = 'failed') EXECUTE FUNCTION dawdle()")
"""
# the COMMIT of an insert into t outlasts the run's budget
SLOW_COMMIT = f"""
op.execute("CREATE TABLE t (i int)")
op.execute("CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS "
           "'BEGIN PERFORM pg_sleep({SECONDS + 0.5}); RETURN NULL; END'")
op.execute("CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED "
           "FOR EACH ROW EXECUTE FUNCTION slow()")
"""
# once the file exists, the revision commits a part of its work
HALF = """
from pathlib import Path
while not Path({go!r}).exists():
    op.execute("SELECT SLEEP(0.05)")
op.execute("CREATE TABLE half (i int)")
op.execute("SELECT SLEEP(60)")
"""
INSERT = 'op.execute("INSERT INTO t VALUES (1)")'
# env.py executes a long statement after the last revision
GOES_ON = """
from alembic import context
from api.migrations.execution.env_script import GIVEN

given = context.config.attributes.get(GIVEN)
if given is not None and given.in_transaction() is False and context.get_context()._migrations_fn.__name__ == "steps":
    given.exec_driver_sql("{long}")
"""
# the wait budget ends with the run budget, as by default
BUDGET: dict[str, Any] = {"run_seconds": SECONDS, "wait_seconds": SECONDS, "strategy": "advisory_lock"}
PATIENT = pytest.mark.usefixtures("patient")
EACH = pytest.mark.parametrize("place", ["postgresql", "mariadb", "mysql", "sqlite"], indirect=True)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a run that has timed out record that for as long as a slow machine needs."""
    monkeypatch.setattr(overrun, "RECORD_SECONDS", FOREVER_SECONDS)


async def start_error(place: Place, ini: Path, instance: str = "one", **settings: float) -> BaseException | None:
    """Start an instance; return the error that it ends with, or None."""
    start = assembled(place.url, ini, instance, **{**BUDGET, **settings}).coordinator().become_ready()
    return (await asyncio.gather(start, return_exceptions=True))[0]


@EACH
async def test_a_timed_out_revision_is_not_repeated_by_the_waiters(place: Place, tmp_path: Path) -> None:
    """A run times out: its failure is recorded before the lock is free, so all seven waiters fail without a retry."""
    before = SLOW_RECORD if place.kind == "postgresql" else "pass"
    long = f'op.execute("{LONG[place.kind]}")'
    assert await start_error(place, tree(tmp_path, before), "before", wait_seconds=300, run_seconds=300) is None
    ini = tree(tmp_path, before, long)
    polls = {"wait_seconds": 300, "poll_seconds": 0.05}
    ended = await asyncio.gather(*(start_error(place, ini, f"api-{number}", **polls) for number in range(INSTANCES)))
    told = [str(error) for error in ended if isinstance(error, AlreadyFailed)]
    [failure] = [error for error in ended if not isinstance(error, AlreadyFailed)]
    assert isinstance(failure, RevisionFailed)
    assert f"MIGRATION_RUN_SECONDS={SECONDS:g}" in str(failure)
    assert all(str(failure) in each for each in told)
    assert outcomes(place, "r2") == ["failed"]
    assert place.lock_is_free()


@PATIENT
async def test_a_run_that_times_out_during_its_last_commit_succeeds(
    postgresql_place: PostgresPlace, tmp_path: Path
) -> None:
    """The last COMMIT outlasts the run's budget: the instance becomes ready and no attempt is failed."""
    place, ini = postgresql_place, tree(tmp_path, SLOW_COMMIT, INSERT)
    assert await start_error(place, ini) is None
    assert history(place) == [("r1", "applied", "one"), ("r2", "applied", "one")]


@PATIENT
async def test_a_timeout_during_a_commit_leaves_later_revisions_pending(
    postgresql_place: PostgresPlace, tmp_path: Path
) -> None:
    """A COMMIT outlasts the budget: its revision stays, none is failed, and the next start applies the rest."""
    place, ini = postgresql_place, tree(tmp_path, SLOW_COMMIT, INSERT, "pass")
    failure = await start_error(place, ini)
    assert isinstance(failure, RevisionFailed)
    assert "2 of 3 steps are committed, and the next start continues from there" in str(failure)
    assert await start_error(place, ini, "two") is None
    # the attempt at r3 was recorded with the COMMIT of r2, and executed nothing
    opened = [("r1", "applied", "one"), ("r2", "applied", "one"), ("r3", "interrupted", "one")]
    assert history(place) == [*opened, ("r3", "applied", "two")]


@EACH
async def test_env_py_is_cancelled_after_the_last_revision(
    place: Place, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """env.py keeps working after the last revision: it is cancelled at the timeout and the instance becomes ready."""
    ini = tree(tmp_path, "pass", env=THREE_LINES + GOES_ON.format(long=LONG[place.kind]))
    assert await start_error(place, ini) is None
    assert history(place) == [("r1", "applied", "one")]
    assert place.lock_is_free()
    assert "run_ended_late" in [getattr(record, "event", None) for record in caplog.records]


@PATIENT
async def test_a_downgrade_that_times_out_during_its_commit_succeeds(
    postgresql_place: PostgresPlace, tmp_path: Path
) -> None:
    """The COMMIT of a downgrade outlasts the budget: the command succeeds and the downgrade is recorded."""
    place, ini = postgresql_place, tree(tmp_path, SLOW_COMMIT)
    revision(tmp_path, "r2", "pass", after="r1", down=INSERT)
    assert await start_error(place, ini) is None
    await assembled(place.url, ini, "two", **BUDGET).coordinator().execute(MigrationRequest("downgrade", "r1"))
    assert versions(place) == ["r1"]
    assert history(place, "revision, direction, outcome")[-1] == ("r2", "downgrade", "applied")


async def test_a_stamp_that_times_out_on_a_locked_table_fails(postgresql_place: PostgresPlace, tmp_path: Path) -> None:
    """Another session locks the version table past the budget: `stamp` fails and writes no version."""
    place, ini = postgresql_place, tree(tmp_path, "pass")
    place.rows("CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY)")
    stamp = assembled(place.url, ini, **BUDGET).coordinator().execute(MigrationRequest("stamp", "r1"))
    async with in_the_way(place.url, "LOCK alembic_version IN SHARE MODE", "lunch"):
        with pytest.raises(MigrationError, match=f"MIGRATION_RUN_SECONDS={SECONDS:g}"):
            await stamp
    assert versions(place) == []


@PATIENT
async def test_a_late_record_does_not_replace_half_applied(
    each_mysql_place: MariaDBPlace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run commits a part while its failure is being recorded: the outcome stays `half_applied`."""

    class SlowStore(SqlStore):
        """A store whose writes arrive late."""

        async def _write(self, *statements: sa.Executable) -> None:
            (tmp_path / "go").touch()
            await asyncio.to_thread(wait_until, lambda: each_mysql_place.has("half"), "what the run commits")
            await super()._write(*statements)

    monkeypatch.setattr("api.migrations.databases.sql_session.SqlStore", SlowStore)
    ini = tree(tmp_path, HALF.format(go=str(tmp_path / "go")))
    failure = await start_error(each_mysql_place, ini)
    assert "was cancelled after it had committed a part of its work" in str(failure)
    assert each_mysql_place.has("half")
    assert outcomes(each_mysql_place, "r1") == ["half_applied"]
