"""A session on MariaDB, MySQL and SQLite: what it reads and writes, as another connection sees it."""

import asyncio
import logging
import time
from datetime import UTC
from pathlib import Path

import pytest

from api.migrations.core.protocols import MigrationRequest
from api.migrations.core.schema import Observed
from api.migrations.errors import MigrationError
from tests.integration.sql_runs import GROUND, MARK, failure, observe, outcomes, run_request, session_in
from tests.support.fakes import FOREVER_SECONDS, revision, tree
from tests.support.mariadb import MariaDB
from tests.support.pace import scaled
from tests.support.places import HISTORY, MariaDBPlace, Place, SqlitePlace, marks
from tests.support.waiting import until, wait_until

SECRET = "secret-word"


async def test_an_empty_database_has_no_revisions(place: Place, tmp_path: Path) -> None:
    """Neither table exists: the session reads no revision, raises no error, and creates no table."""
    session = session_in(place, tree(tmp_path, GROUND))
    await session.open()
    assert await session.store.observe() == Observed()
    assert await session.store.lineage() == {}
    assert await session.store.attempts(["r1"]) == []
    assert await session.store.runs(10) == []
    await session.close()
    assert not place.has(HISTORY)
    assert not place.has("alembic_version")


async def test_a_run_records_revisions_parents_times_and_durations(place: Place, tmp_path: Path) -> None:
    """A run records each revision with parents, release, times in UTC and duration."""
    ini = tree(tmp_path, GROUND, MARK.format("r2"))
    began = time.time()
    await run_request(place, ini, release="v7")
    ended = time.time()
    session = session_in(place, ini)
    await session.open()
    seen, runs = await session.store.observe(), await session.store.runs(10)
    assert await session.store.lineage() == {"r1": frozenset(), "r2": frozenset({"r1"})}
    await session.close()
    assert (seen.revisions, seen.half_applied, seen.last_failure) == (frozenset({"r2"}), (), None)
    # SQLite's clock has milliseconds
    assert began - 0.002 <= (seen.last_success or 0) <= ended + 0.002
    assert [(row.revision, row.outcome, row.instance) for row in seen.recent] == [
        ("r2", "applied", "one"),
        ("r1", "applied", "one"),
    ]
    assert all(0 <= (row.seconds or 0) <= ended - began + 0.002 for row in seen.recent)
    assert [(run["revision"], run["release"], run["direction"]) for run in runs] == [
        ("r2", "v7", "upgrade"),
        ("r1", "v7", "upgrade"),
    ]
    moments = [run[name] for run in runs for name in ("started_at", "finished_at")]
    assert {moment.tzinfo for moment in moments} == {UTC}
    assert all(began - 0.002 <= moment.timestamp() <= ended + 0.002 for moment in moments)


async def test_times_are_utc_in_any_server_time_zone(
    each_mysql: MariaDB, each_mysql_place: MariaDBPlace, tmp_path: Path
) -> None:
    """The server has another time zone: times are written and read as UTC."""
    ini = tree(tmp_path, GROUND)
    each_mysql.query("SET GLOBAL time_zone = '+05:30'")
    try:
        began = time.time()
        await run_request(each_mysql_place, ini)
        seen = await observe(each_mysql_place, ini)
    finally:
        each_mysql.query("SET GLOBAL time_zone = 'SYSTEM'")
    assert began <= (seen.last_success or 0) <= time.time()


async def test_attempts_have_their_age_by_the_database_clock(place: Place, tmp_path: Path) -> None:
    """Attempts are read newest first with their age by the database's clock, without retried ones."""
    ini = tree(tmp_path, GROUND, MARK.format("r2") + "raise ValueError('boom')")
    for instance in ("one", "two"):
        await failure(place, ini, instance=instance)
    place.rows(f"UPDATE {HISTORY} SET finished_at = '2020-01-01 00:00:00.000000' WHERE instance = 'one'")
    began = time.time()
    session = session_in(place, ini)
    await session.open()
    newer, older = await session.store.attempts(["r2", "r3"])
    assert await session.store.attempts(["r3"]) == []
    place.rows(f"UPDATE {HISTORY} SET outcome = 'retried' WHERE instance = 'two'")
    assert [past.instance for past in await session.store.attempts(["r2"])] == ["one"]
    await session.close()
    assert (newer.instance, newer.outcome, older.instance) == ("two", "failed", "one")
    assert "boom" in (newer.error or "")
    assert 0 <= newer.age_seconds < 60
    assert older.age_seconds == pytest.approx(began - 1577836800, abs=60)


async def test_a_failed_revision_is_rolled_back_on_sqlite(sqlite_place: SqlitePlace, tmp_path: Path) -> None:
    """A revision with DDL fails on SQLite: all its statements are rolled back, and the revision before it stays."""
    create, alter = 'op.execute("CREATE TABLE u (a int)")\n', 'op.execute("ALTER TABLE marks ADD COLUMN b int")\n'
    ini = tree(tmp_path, GROUND, create + MARK.format("r2") + alter + "op.execute('SELECT * FROM nowhere')")
    message = await failure(sqlite_place, ini)
    assert "revision r2, Do r2 failed and was rolled back: OperationalError (SQLITE_ERROR): no such table" in message
    assert not sqlite_place.has("u")
    assert len(sqlite_place.rows("SELECT * FROM pragma_table_info('marks')")) == 1
    assert outcomes(sqlite_place) == [("r1", "applied"), ("r2", "failed")]
    seen = await observe(sqlite_place, ini)
    assert (seen.revisions, seen.half_applied) == (frozenset({"r1"}), ())
    assert seen.last_failure is not None


async def test_a_failed_revision_without_ddl_is_rolled_back(place: Place, tmp_path: Path) -> None:
    """A revision without DDL fails and is rolled back; the next start runs the corrected one."""
    ini = tree(tmp_path, GROUND, MARK.format("r2") + "raise ValueError('boom')")
    assert "failed and was rolled back: ValueError: boom, at r2.py:" in await failure(place, ini)
    assert marks(place) == []
    revision(tmp_path, "r2", MARK.format("r2"), after="r1")
    await run_request(place, ini)
    assert marks(place) == ["r2"]
    assert outcomes(place) == [("r1", "applied"), ("r2", "failed"), ("r2", "applied")]


async def test_a_cancelled_error_raised_by_a_revision_is_a_failure(place: Place, tmp_path: Path) -> None:
    """A revision raises CancelledError itself: it is recorded as failed, and not taken for a shutdown."""
    ini = tree(tmp_path, GROUND, MARK.format("r2") + "import asyncio\nraise asyncio.CancelledError('by r2')")
    assert "revision r2, Do r2 failed and was rolled back: CancelledError: by r2, at" in await failure(place, ini)
    assert marks(place) == []
    assert outcomes(place) == [("r1", "applied"), ("r2", "failed")]


async def test_a_revision_that_closes_its_connection_fails_with_its_own_error(place: Place, tmp_path: Path) -> None:
    """A revision closes its connection and raises: the error that is reported is its own."""
    ini = tree(tmp_path, GROUND, MARK.format("r2") + "op.get_bind().close()\nraise ValueError('boom')")
    assert "revision r2, Do r2 failed and was rolled back: ValueError: boom, at" in await failure(place, ini)
    assert marks(place) == []


@pytest.mark.parametrize(("before", "after"), [("running", "failed"), ("half_applied", "half_applied")])
async def test_another_session_records_an_attempt_as_failed(
    place: Place, tmp_path: Path, before: str, after: str
) -> None:
    """Another session records the failure of a lost one: `running` becomes `failed`, `half_applied` stays."""
    ini = tree(tmp_path, GROUND, MARK.format("r2"))
    await run_request(place, ini)
    place.rows(f"UPDATE {HISTORY} SET outcome = '{before}', finished_at = NULL WHERE revision = 'r2'")
    session = session_in(place, ini)
    await session.open()
    await session.store.record_failure("out of time", "r2", 60)
    run = (await session.store.runs(1))[0]
    await session.close()
    assert (run["outcome"], run["error"], run["error_class"]) == (after, "out of time", "TimeoutError")
    assert run["finished_at"] is not None


async def test_a_failure_without_an_attempt_adds_one_row(place: Place, tmp_path: Path) -> None:
    """No row exists for a failure: one is added with its parents, never a second, and none after it was applied."""
    ini = tree(tmp_path, GROUND, MARK.format("r2"))
    await run_request(place, ini, MigrationRequest("upgrade", "r1"))
    session = session_in(place, ini)
    await session.open()
    await session.store.record_failure("out of time", "r2", 60)
    await session.store.record_failure("out of time", "r2", 60)
    [row] = [run for run in await session.store.runs(9) if run["revision"] == "r2"]
    assert (row["parents"], row["outcome"], row["direction"]) == ("r1", "failed", "upgrade")
    await session.close()
    await run_request(place, ini)
    session = session_in(place, ini)
    await session.open()
    await session.store.record_failure("out of time", "r2", 60)
    await session.close()
    assert outcomes(place) == [("r1", "applied"), ("r2", "failed"), ("r2", "applied")]


ON_A_SERVER = [
    f"INSERT INTO marks SELECT revision FROM marks UNION SELECT '{SECRET}' UNION ALL SELECT '{SECRET}'",
    f"SELECT '{SECRET}' FROM WHERE",
    f"INSERT INTO numbers VALUES ('{SECRET}')",
    f"INSERT INTO names VALUES ('it''s {SECRET}'), ('it''s {SECRET}')",
    f"INSERT INTO names VALUES ('line\n{SECRET}'), ('line\n{SECRET}')",
    f"SELECT CAST('{SECRET}' AS DOUBLE) + (SELECT 1 UNION SELECT 2)",
    f"SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'not ''{SECRET}'''",
]
QUOTING = {
    "mariadb": ON_A_SERVER,
    "mysql": ON_A_SERVER,
    "sqlite": [
        f"SELECT '{SECRET}' FROM WHERE",
        f"SELECT '{SECRET}",
        f"INSERT INTO names VALUES ('{SECRET}'), ('{SECRET}')",
        f"INSERT INTO numbers VALUES ('{SECRET}')",
        f"SELECT json('{SECRET}')",
        f"SELECT '{SECRET}' -> '{SECRET}'",
    ],
}


@pytest.mark.parametrize(("kind", "sql"), [(kind, sql) for kind, each in QUOTING.items() for sql in each])
async def test_no_value_is_shown_in_error_history_or_log(
    request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture, tmp_path: Path, kind: str, sql: str
) -> None:
    """A statement with a secret fails: the secret is in no error, history row or log line."""
    place: Place = request.getfixturevalue(f"{kind}_place")
    typed = "integer" if kind != "sqlite" else "integer CHECK (typeof(n) = 'integer')"
    tables = [f"CREATE TABLE numbers (n {typed})", "CREATE TABLE names (n varchar(40) PRIMARY KEY)"]
    ground = GROUND + "".join(f"\nop.execute({table!r})" for table in tables)
    unique = "\nop.execute('CREATE UNIQUE INDEX one ON marks (revision)')"
    drop = f'op.execute("DROP TABLE IF EXISTS `{SECRET}`")\n'
    ini = tree(tmp_path, ground + unique, f"{drop}op.get_bind().exec_driver_sql({sql!r})")
    with caplog.at_level(logging.INFO):
        message = await failure(place, ini)
    [[error]] = place.rows(f"SELECT error FROM {HISTORY} WHERE error IS NOT NULL")
    assert SECRET not in message + error + caplog.text
    assert "Error" in message


async def test_a_statement_timeout_applies_on_mariadb(mariadb_place: MariaDBPlace, tmp_path: Path) -> None:
    """A statement exceeds the timeout on MariaDB: the server ends it with error 1969."""
    ini = tree(tmp_path, 'op.execute("SELECT SLEEP(60) FROM (SELECT 1 UNION SELECT 2) t")')
    message = await failure(mariadb_place, ini, statement_timeout_seconds=scaled(0.5))
    assert "(error 1969)" in message


@pytest.mark.parametrize(("place", "name"), [("sqlite", "SQLite"), ("mysql", "MySQL")], indirect=["place"])
async def test_a_statement_timeout_is_logged_as_unsupported_elsewhere(
    place: Place, name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """MySQL or SQLite cannot apply a statement timeout: one warning says so, and by default none."""
    await run_request(place, tree(tmp_path, GROUND))
    assert not [record for record in caplog.records if getattr(record, "event", "") == "no_statement_timeout"]
    await run_request(place, tree(tmp_path, GROUND, MARK.format("r2")), statement_timeout_seconds=5)
    [warned] = [record for record in caplog.records if getattr(record, "event", "") == "no_statement_timeout"]
    assert f"Revision r2: {name} has no statement timeout" in warned.getMessage()


async def test_a_downgrade_is_recorded(place: Place, tmp_path: Path) -> None:
    """`downgrade` runs under the lock, undoes the revision, and adds a row to the history."""
    ini = tree(tmp_path, GROUND)
    revision(tmp_path, "r2", MARK.format("r2"), after="r1", down='op.execute("DELETE FROM marks")')
    await run_request(place, ini)
    await run_request(place, ini, MigrationRequest("downgrade", "r1"))
    assert (await observe(place, ini)).revisions == frozenset({"r1"})
    assert outcomes(place) == [("r1", "applied"), ("r2", "applied"), ("r2", "applied")]
    assert marks(place) == []


async def test_a_commit_in_a_revision_is_refused(place: Place, tmp_path: Path) -> None:
    """A revision executes COMMIT: it fails and no row is left."""
    ini = tree(tmp_path, GROUND, MARK.format("r2") + 'op.execute("COMMIT")')
    assert "a revision may not end its own transaction" in await failure(place, ini)
    assert marks(place) == []


async def test_two_statements_in_one_string_are_refused(place: Place, tmp_path: Path) -> None:
    """A string has two statements: the revision fails and neither is executed."""
    ini = tree(tmp_path, GROUND, 'op.execute("INSERT INTO marks VALUES (1); COMMIT")')
    with pytest.raises(MigrationError):
        await run_request(place, ini)
    assert marks(place) == []


async def test_a_repeated_cancellation_still_ends_the_statement(each_mysql_place: MariaDBPlace, tmp_path: Path) -> None:
    """Ctrl-C comes again and again: the session's statement is still terminated and the lock is free."""
    # not SLEEP, which checks every few seconds whether its client is still connected
    ini = tree(tmp_path, "op.execute(\"SELECT BENCHMARK(1000000000, SHA2('x', 512))\")")
    run = asyncio.create_task(run_request(each_mysql_place, ini))

    async def computes() -> bool:
        return any("BENCHMARK" in statement for _, statement in each_mysql_place.sessions())

    await until(computes, "the statement", seconds=FOREVER_SECONDS)
    while not run.done():
        run.cancel()
        await asyncio.wait({run}, timeout=0.002)
    assert run.cancelled()
    wait_until(each_mysql_place.lock_is_free, "the lock free", seconds=FOREVER_SECONDS / 3)
