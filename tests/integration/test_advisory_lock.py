"""PostgreSQL's advisory lock: one session holds it, with the settings of the migration, until that session ends."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from api.migrations.core.lock_key import LockKey
from api.migrations.core.protocols import MigrationRequest, OperatorSession
from api.migrations.core.reporter import ProgressReporter
from api.migrations.core.status import Tracker
from api.migrations.databases.postgres.connection import connect, set_for_work
from api.migrations.databases.postgres.lock_status import lock_status
from api.migrations.errors import DatabaseUnreachable, HoldLost, RevisionFailed
from api.migrations.execution.limits import Limits
from api.migrations.execution.lock_retry import LockRetrySchedule
from api.migrations.lock_manager import SessionLock, application_name
from api.migrations.urls.database_url import DatabaseURL
from tests.support.fakes import FOREVER_SECONDS, STOP, assembled, barrier, eventually, tree
from tests.support.servers import fetch

HEAD = MigrationRequest("upgrade", "head")
KEY = LockKey.derive("fastapi", "alembic_version", None)
LIMITS = Limits(lock_timeout_seconds=3, statement_timeout_seconds=90)
PACE = LockRetrySchedule(lambda revision: LIMITS)
HELD = f"""
    SELECT pid, classid::bigint, objid::bigint, objsubid, granted FROM pg_locks
    WHERE locktype = 'advisory' AND classid = {KEY.high} AND objid = {KEY.low}
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
FREE = f"SELECT NOT EXISTS ({HELD})"
STOPS = f'op.execute("CREATE TABLE u (a int)")\nop.execute("{STOP}")'
CONCURRENTLY = 'with op.get_context().autocommit_block():\n    op.execute("CREATE INDEX CONCURRENTLY i ON t (a)")'


@pytest.fixture
async def connections(database_url: str) -> AsyncIterator[list[asyncpg.Connection]]:
    """Yield two connections that are opened like those of a migration."""
    url = DatabaseURL.parse(database_url)
    opened = [await connect(url, LIMITS, application_name(KEY, "waiting", name)) for name in ("one", "two")]
    yield opened
    for connection in opened:
        await connection.close()


async def holding(url: str, ini: Path) -> OperatorSession:
    """Return a session that holds the lock and has no lock timeout."""
    session = assembled(url, ini, lock_timeout_seconds=0).session()
    await session.open()
    assert await session.try_lock()
    return session


async def run_to_head(session: OperatorSession) -> None:
    """Upgrade to head."""
    await asyncio.wait_for(session.run(HEAD, ProgressReporter(Tracker())), FOREVER_SECONDS)


async def test_one_of_two_sessions_acquires_the_lock(connections: list[asyncpg.Connection]) -> None:
    """Two sessions try the lock: the second acquires it only after the first has released it."""
    one, two = (SessionLock(KEY, connection, PACE) for connection in connections)
    assert await one.try_lock()
    assert not await two.try_lock()
    await one.unlock()
    assert await two.try_lock()


async def test_unlock_without_the_lock_raises_hold_lost(connections: list[asyncpg.Connection]) -> None:
    """A session that does not hold the lock calls `unlock`: it raises HoldLost, and the holder keeps the lock."""
    one, two = (SessionLock(KEY, connection, PACE) for connection in connections)
    with pytest.raises(HoldLost, match="0x0fdeb4c6e0529396"):
        await one.unlock()
    await one.try_lock()
    await connections[1].execute("SELECT pg_advisory_unlock_all()")
    with pytest.raises(HoldLost):
        await two.unlock()
    assert not await two.try_lock()


async def test_pg_locks_shows_the_two_halves_of_the_key(
    connections: list[asyncpg.Connection], database_url: str
) -> None:
    """The lock holder's row in pg_locks has the classid and objid that the key's text shows to an operator."""
    await SessionLock(KEY, connections[0], PACE).try_lock()
    (row,) = await fetch(database_url, HELD)
    assert tuple(row) == (connections[0].get_server_pid(), KEY.high, KEY.low, 1, True)
    assert f"classid {row['classid']}, objid {row['objid']}" in str(KEY)


@pytest.mark.parametrize("value", [-(2**63), -1, 0, 1, 2**31, 2**32 - 1, 2**63 - 1])
async def test_lock_status_finds_a_key_of_any_sign(connections: list[asyncpg.Connection], value: int) -> None:
    """`lock_status` finds the lock holder for negative and for large keys, whose halves pg_locks shows unsigned."""
    one, two = connections
    key = LockKey(value)
    assert (await lock_status(key, two)).holder is None
    await SessionLock(key, one, PACE).try_lock()
    found = (await lock_status(key, two)).holder
    assert found is not None
    assert (found.instance, found.pid, found.state) == ("one", one.get_server_pid(), "idle")


async def test_the_same_key_in_another_database_is_another_lock(
    connections: list[asyncpg.Connection], database_url: str
) -> None:
    """Another database's session holds the same key: this database has no holder, and a session acquires the lock."""
    elsewhere = await asyncpg.connect(database_url.rpartition("/")[0] + "/postgres")
    await elsewhere.fetchval("SELECT pg_try_advisory_lock($1)", KEY.value)
    assert (await lock_status(KEY, connections[0])).holder is None
    assert await SessionLock(KEY, connections[0], PACE).try_lock()
    await elsewhere.close()


async def settings_of(connection: asyncpg.Connection) -> dict[str, str]:
    """Return the settings in force in a migration session, in the units in which the server stores them."""
    names = [*LIMITS.server_settings(), "transaction_timeout", "application_name"]
    rows = await connection.fetch(
        "SELECT name, setting || coalesce(unit, '') FROM pg_settings WHERE name = ANY($1)", names
    )
    return dict(rows)


async def test_the_session_settings_override_the_database_defaults(
    connections: list[asyncpg.Connection], database_url: str
) -> None:
    """The session's settings override the defaults of the database, and DISCARD ALL restores those of the connect."""
    name = database_url.rpartition("/")[2]
    for setting in ("lock_timeout", "statement_timeout", "idle_session_timeout", "client_connection_check_interval"):
        await fetch(database_url, f"ALTER DATABASE \"{name}\" SET {setting} = '17s'")
    connection = await connect(DatabaseURL.parse(database_url), LIMITS, "migrations:x:waiting:one")
    await set_for_work(connection, LIMITS, "migrations:x:migrating:one", local=False)
    expected = {
        "lock_timeout": "3000ms",
        "statement_timeout": "90000ms",
        "idle_in_transaction_session_timeout": "60000ms",
        "idle_session_timeout": "60000ms",
        "client_connection_check_interval": "1000ms",
        "tcp_keepalives_idle": "5s",
        "tcp_keepalives_interval": "5s",
        "tcp_keepalives_count": "3",
        "tcp_user_timeout": "15000ms",
        "application_name": "migrations:x:migrating:one",
    }
    new = {"transaction_timeout": "0ms"} if connection.get_server_version() >= (17, 0) else {}
    assert await settings_of(connection) == expected | new
    await connection.execute("DISCARD ALL")
    at_connect = {"idle_in_transaction_session_timeout": "0ms", "idle_session_timeout": "0ms"}
    at_connect["application_name"] = "migrations:x:waiting:one"
    assert await settings_of(connection) == expected | new | at_connect
    await connection.close()


async def test_waiters_hold_no_snapshot(database_url: str, tmp_path: Path) -> None:
    """Waiters are idle without a snapshot, so the lock holder's CREATE INDEX CONCURRENTLY does not wait for them."""
    ini = tree(tmp_path, 'op.execute("CREATE TABLE t (a int)")', STOPS, CONCURRENTLY)
    holds = await holding(database_url, ini)
    fleet = [assembled(database_url, ini, f"w{n}", poll_seconds=0.05).coordinator().become_ready() for n in range(3)]
    waiting = asyncio.gather(*fleet)
    ours = f"FROM pg_stat_activity WHERE starts_with(application_name, '{KEY.label}waiting:w')"
    async with barrier(database_url) as reached:
        run = asyncio.create_task(run_to_head(holds))
        await reached()
        await eventually(database_url, f"SELECT count(*) = 3 {ours}", "three sessions waiting")
        for _ in range(10):
            rows = await fetch(database_url, f"SELECT state, backend_xmin {ours} AND state <> 'active'")
            assert {(row["state"], row["backend_xmin"]) for row in rows} <= {("idle", None)}
    await run
    await holds.unlock()
    await asyncio.wait_for(waiting, FOREVER_SECONDS)
    await holds.close()
    assert await fetch(database_url, "SELECT 1 FROM pg_index WHERE NOT indisvalid") == []


async def test_close_releases_the_lock(database_url: str, tmp_path: Path) -> None:
    """The lock holder closes its session without `unlock`: the lock is free."""
    session = await holding(database_url, tree(tmp_path, "pass"))
    await session.close()
    await eventually(database_url, FREE, "the lock free")


async def test_a_cancelled_run_leaves_no_lock_version_or_table(database_url: str, tmp_path: Path) -> None:
    """A run is cancelled inside a statement: the lock is free, no version is recorded, and no table is left."""
    session = await holding(database_url, tree(tmp_path, STOPS))
    async with barrier(database_url) as reached:
        run = asyncio.create_task(run_to_head(session))
        await reached()
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        await session.close()
        await eventually(database_url, FREE, "the lock free")
    assert await fetch(database_url, "SELECT * FROM alembic_version") == []
    assert (await fetch(database_url, "SELECT to_regclass('u')"))[0][0] is None


async def test_a_terminated_lock_holder_loses_the_lock_and_raises(database_url: str, tmp_path: Path) -> None:
    """pg_terminate_backend ends the holder: the lock is free, and this and its next statement raise an error."""
    session = await holding(database_url, tree(tmp_path, STOPS))
    async with barrier(database_url) as reached:
        run = asyncio.create_task(run_to_head(session))
        await reached()
        await fetch(database_url, f"SELECT pg_terminate_backend(pid) FROM ({HELD}) held")
        with pytest.raises(DatabaseUnreachable):
            await run
        await eventually(database_url, FREE, "the lock free")
    with pytest.raises(DatabaseUnreachable):
        await session.store.observe()
    await session.close()


@pytest.mark.parametrize(
    "body",
    [
        'op.execute("CREATE TABLE u (a int)")\nop.execute("SELECT pg_advisory_unlock_all()")',
        'with op.get_context().autocommit_block():\n    op.execute("DISCARD ALL")\nop.execute("CREATE TABLE u ()")',
    ],
    ids=["pg_advisory_unlock_all", "DISCARD ALL"],
)
@pytest.mark.parametrize("further", [[], ["pass"]], ids=["the last revision", "one before another"])
async def test_a_revision_that_releases_the_lock_is_rolled_back(
    database_url: str, tmp_path: Path, body: str, further: list[str]
) -> None:
    """A revision releases the lock, so another instance may migrate: the run raises HoldLost and is rolled back."""
    session = await holding(database_url, tree(tmp_path, body, *further))
    with pytest.raises(HoldLost, match="during the run"):
        await run_to_head(session)
    await session.close()
    assert await fetch(database_url, "SELECT * FROM alembic_version") == []
    assert (await fetch(database_url, "SELECT to_regclass('u')"))[0][0] is None


async def test_a_cancelled_statement_fails_the_revision_and_keeps_the_lock(database_url: str, tmp_path: Path) -> None:
    """pg_cancel_backend fails the revision: its session still holds the lock and records the failure."""
    session = await holding(database_url, tree(tmp_path, STOPS))
    async with barrier(database_url) as reached:
        run = asyncio.create_task(run_to_head(session))
        await reached()
        await fetch(database_url, f"SELECT pg_cancel_backend(pid) FROM ({HELD}) held")
        with pytest.raises(RevisionFailed, match="57014"):
            await run
    await session.unlock()
    await session.close()
    ((outcome,),) = await fetch(database_url, "SELECT outcome FROM alembic_version_history")
    assert outcome == "failed"


async def test_each_attempt_records_the_invalid_indexes_before_it(database_url: str, tmp_path: Path) -> None:
    """An INVALID index existed before the run: the attempts at both revisions record it, not only the first one."""
    await fetch(database_url, "CREATE TABLE t (a int)")
    await fetch(database_url, "CREATE INDEX old ON t (a)")
    await fetch(database_url, "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'old'::regclass")
    session = await holding(database_url, tree(tmp_path, "pass", "pass"))
    await run_to_head(session)
    await session.close()
    rows = await fetch(database_url, "SELECT invalid_before FROM alembic_version_history ORDER BY id")
    assert [row[0] for row in rows] == ['["old"]', '["old"]']
