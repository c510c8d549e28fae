"""The times of the last success and the last failure, which an instance reads from the history."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from api.migrations.core.protocols import MigrationRequest, OperatorSession
from api.migrations.core.reporter import ProgressReporter
from api.migrations.core.status import Tracker
from api.migrations.errors import RevisionFailed
from tests.support.fakes import assembled, revision, tree
from tests.support.servers import fetch

HEAD = MigrationRequest("upgrade", "head")
HALF = 'with op.get_context().autocommit_block():\n    op.execute("CREATE TABLE u (a int)")\n'
TABLE = "alembic_version_history"


@pytest.fixture
async def session(database_url: str, tmp_path: Path) -> AsyncIterator[OperatorSession]:
    """Yield an open session on an empty database, with a history of one revision."""
    opened = assembled(database_url, tree(tmp_path, "pass")).session()
    await opened.open()
    yield opened
    await opened.close()


async def run_request(session: OperatorSession, order: MigrationRequest = HEAD) -> None:
    """Run one request under the lock, and open the session again."""
    await session.open()
    try:
        assert await session.try_lock()
        await session.run(order, ProgressReporter(Tracker()))
    finally:
        await session.close()
    await session.open()


async def ended(session: OperatorSession) -> tuple[float | None, float | None]:
    """Return the last success and the last failure, as a session reads them."""
    observed = await session.store.observe()
    return observed.last_success, observed.last_failure


async def moment(url: str, column: str, outcome: str) -> float:
    """Return the time in the newest row with that outcome."""
    sql = f"SELECT extract(epoch FROM {column})::float8 FROM {TABLE} WHERE outcome = $1 ORDER BY id DESC LIMIT 1"
    seconds: float = (await fetch(url, sql, outcome))[0][0]
    return seconds


async def test_a_database_without_a_history_has_no_last_run(session: OperatorSession, database_url: str) -> None:
    """Without a history table, on an empty database or after plain Alembic, both times are None."""
    assert await ended(session) == (None, None)
    await fetch(database_url, "CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY)")
    assert await ended(session) == (None, None)


async def test_a_stamp_and_a_downgrade_count_as_successes(session: OperatorSession, database_url: str) -> None:
    """A stamp and then a downgrade: the last success is the time of the newest, by the database's clock."""
    await run_request(session, MigrationRequest("stamp", "r1"))
    stamped = await moment(database_url, "finished_at", "stamped")
    assert await ended(session) == (stamped, None)
    await run_request(session, MigrationRequest("downgrade", "base"))
    undone = await moment(database_url, "finished_at", "applied")
    assert await ended(session) == (undone, None)
    assert undone > stamped


async def test_the_last_failure_stays_after_a_later_success(database_url: str, tmp_path: Path) -> None:
    """One instance fails and another one succeeds later: both times are kept, and the success is later."""
    ini = tree(tmp_path, "pass", 'raise ValueError("boom")')
    with pytest.raises(RevisionFailed):
        await run_request(assembled(database_url, ini).session())
    other = assembled(database_url, ini, "two").session()
    await other.open()
    failed = await moment(database_url, "finished_at", "failed")
    assert await ended(other) == (await moment(database_url, "finished_at", "applied"), failed)
    revision(tmp_path, "r2", "pass", after="r1")
    await other.close()
    mended = assembled(database_url, ini, "three").session()
    await run_request(mended)
    success, failure = await ended(mended)
    assert (success or 0) > failed == failure
    await mended.close()


async def test_an_interrupted_attempt_counts_as_failed_at_its_start(
    session: OperatorSession, database_url: str
) -> None:
    """A later lock holder closes an interrupted attempt: the failure's time is the attempt's start, not its end."""
    await run_request(session)
    before = await ended(session)
    closed = "clock_timestamp() + interval '1 hour'"
    await fetch(database_url, f"UPDATE {TABLE} SET outcome = 'interrupted', finished_at = {closed}")
    assert await ended(session) == (None, await moment(database_url, "started_at", "interrupted"))
    assert before[1] is None


async def test_a_half_applied_attempt_counts_as_failed_once_it_has_ended(database_url: str, tmp_path: Path) -> None:
    """A half-applied attempt counts as a failure only with an end; a stamp after it is the last success."""
    session = assembled(database_url, tree(tmp_path, HALF + 'raise ValueError("boom")')).session()
    with pytest.raises(RevisionFailed):
        await run_request(session)
    await session.open()
    assert await ended(session) == (None, await moment(database_url, "finished_at", "half_applied"))
    await fetch(database_url, f"UPDATE {TABLE} SET finished_at = NULL")
    assert await ended(session) == (None, None)
    await run_request(session, MigrationRequest("stamp", "r1"))
    success, failure = await ended(session)
    assert success is not None
    assert failure is not None
    assert success > failure
    await session.close()
