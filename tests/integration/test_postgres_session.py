"""A session on PostgreSQL: what it reads in each state of the database, and how it waits and disconnects."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from api.migrations.core.protocols import MigrationRequest, OperatorSession
from api.migrations.core.reporter import ProgressReporter
from api.migrations.core.schema import HalfApplied, Observed
from api.migrations.core.status import Tracker
from api.migrations.errors import AccessRefused, DatabaseUnreachable, PrivilegeMissing, RevisionFailed
from api.migrations.lock_manager import application_name
from devtools.ports import free_port
from tests.support.fakes import FOREVER_SECONDS, assembled, eventually, in_the_way, revision, tree
from tests.support.servers import Server, fetch

HEAD = MigrationRequest("upgrade", "head")
CREATE = 'op.execute("CREATE TABLE t (a int)")'
HALF = 'with op.get_context().autocommit_block():\n    op.execute("CREATE TABLE u (a int)")\nraise ValueError("boom")'


@pytest.fixture
async def session(database_url: str, tmp_path: Path) -> AsyncIterator[OperatorSession]:
    """Yield an open session on an empty database, with a history of one revision."""
    opened = assembled(database_url, tree(tmp_path, CREATE)).session()
    await opened.open()
    yield opened
    await opened.close()


async def migrate(session: OperatorSession) -> None:
    """Upgrade to head under the lock."""
    await session.open()
    assert await session.try_lock()
    await session.run(HEAD, ProgressReporter(Tracker()))
    await session.unlock()


async def test_an_empty_database_has_no_revisions(session: OperatorSession) -> None:
    """Neither table exists: the session reads no revision and no attempt, and raises no error."""
    assert await session.store.observe() == Observed()
    assert await session.store.lineage() == {}
    assert await session.store.attempts(["r1"]) == []
    assert await session.store.half_applied() is None
    assert await session.store.runs(10) == []


async def test_reading_creates_no_table_and_leaves_no_transaction(session: OperatorSession, database_url: str) -> None:
    """A session reads an empty database: it creates no table and its connection is idle outside a transaction."""
    await session.store.observe()
    tables = await fetch(database_url, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    states = await fetch(database_url, "SELECT state FROM pg_stat_activity WHERE application_name LIKE 'migrations:%'")
    assert (tables, [row["state"] for row in states]) == ([], ["idle"])


async def test_a_version_table_without_a_history_is_read(session: OperatorSession, database_url: str) -> None:
    """Plain Alembic migrated the database: the session reads its revisions without a history table."""
    await fetch(database_url, "CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY)")
    assert await session.store.observe() == Observed()
    await fetch(database_url, "INSERT INTO alembic_version VALUES ('r1'), ('other')")
    assert await session.store.observe() == Observed(frozenset({"r1", "other"}))


async def test_a_missing_version_table_means_no_revisions(session: OperatorSession, database_url: str) -> None:
    """The version table was dropped and the history exists: the session reads no revision."""
    await migrate(session)
    await fetch(database_url, "DROP TABLE alembic_version")
    assert await session.store.observe() == Observed()


async def test_both_tables_are_read_after_a_run(session: OperatorSession) -> None:
    """After a run the session reads the revision and the lineage from the two tables."""
    await migrate(session)
    assert await session.store.observe() == Observed(frozenset({"r1"}))
    assert await session.store.lineage() == {"r1": frozenset()}


async def test_a_half_applied_revision_is_read(database_url: str, tmp_path: Path) -> None:
    """A revision is half applied: the session reads its last statement, its error and its age."""
    session = assembled(database_url, tree(tmp_path, HALF)).session()
    with pytest.raises(RevisionFailed):
        await migrate(session)
    assert await session.store.observe() == Observed(frozenset(), (HalfApplied("r1", "CREATE TABLE"),))
    (failure,) = await session.store.attempts(["r1"])
    assert (failure.revision, failure.outcome, failure.instance) == ("r1", "half_applied", "one")
    assert "boom" in (failure.error or "")
    assert 0 <= failure.age_seconds < 60
    await session.close()


@pytest.mark.parametrize(
    "names",
    [
        {"version_table": 'odd "name'},
        {"version_table": "Select", "history_table": "it's; --"},
        {"version_table_schema": "with-dash"},
        {"version_table": 'odd "name', "version_table_schema": 'we "ird.schema', "history_table": "ü %s {}"},
        {"version_table": "v" * 55, "history_table": "h" * 63},
    ],
)
async def test_any_table_and_schema_name_works(database_url: str, tmp_path: Path, names: dict[str, Any]) -> None:
    """Table and schema names have quotes, spaces or 63 letters: runs and reads use them, quoted."""
    if schema := names.get("version_table_schema", "").replace('"', '""'):
        await fetch(database_url, f'CREATE SCHEMA "{schema}"')
    ini = tree(tmp_path, CREATE)
    for head in ("r1", "r2"):
        session = assembled(database_url, ini, **names).session()
        await migrate(session)
        assert await session.store.observe() == Observed(frozenset({head}))
        assert head in await session.store.lineage()
        assert [row["outcome"] for row in await session.store.runs(1)] == ["applied"]
        await session.close()
        revision(tmp_path, "r2", "pass", after="r1")
    made = await fetch(database_url, "SELECT schemaname, tablename FROM pg_tables WHERE tablename <> 't'")
    expected = (names.get("version_table_schema", "public"), names.get("version_table", "alembic_version"))
    assert expected in [tuple(row) for row in made if row[0] not in {"pg_catalog", "information_schema"}]


async def test_unlock_notifies_the_waiters(database_url: str, tmp_path: Path) -> None:
    """The lock holder unlocks: a waiter's pause ends at once, and the waiter acquires the lock."""
    ini = tree(tmp_path, CREATE)
    holds, waits = (assembled(database_url, ini, name).session() for name in ("holds", "waits"))
    await holds.open()
    await waits.open()
    assert await holds.try_lock()
    assert not await waits.try_lock()
    await waits.pause(FOREVER_SECONDS, FOREVER_SECONDS)
    pausing = asyncio.create_task(waits.pause(FOREVER_SECONDS, FOREVER_SECONDS * 10))
    await holds.unlock()
    await asyncio.wait_for(pausing, FOREVER_SECONDS)
    assert await waits.try_lock()
    await holds.close()
    await waits.close()


async def connected(url: str) -> asyncpg.Connection:
    """Open a connection of another service."""
    return await asyncpg.connect(url)


async def test_a_waiter_disconnects_from_a_crowded_server(server: Server, database_url: str, tmp_path: Path) -> None:
    """Half of the server's connections are in use: a waiter disconnects during its pause."""
    session = assembled(database_url, tree(tmp_path, CREATE)).session()
    await session.open()
    limit = int((await fetch(database_url, "SHOW max_connections"))[0][0])
    async with asyncio.TaskGroup() as group:
        crowd = [group.create_task(connected(database_url)) for _ in range(limit // 2)]
    ours = "SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name LIKE 'migrations:%'"
    await session.pause(0.01, FOREVER_SECONDS)
    await eventually(database_url, ours, "the waiter gone")
    async with asyncio.TaskGroup() as group:
        for one in crowd:
            group.create_task(one.result().close())
    await session.open()
    assert await session.store.observe() == Observed()
    await session.close()


async def test_lock_status_lists_the_fleet_by_role_and_name(database_url: str, tmp_path: Path) -> None:
    """`lock_status` lists waiters and lock holder, oldest first, and leaves out sessions that only read."""
    ini = tree(tmp_path, CREATE)
    sessions = [assembled(database_url, ini, name).session() for name in ("one", "two")]
    sessions.append(assembled(database_url, ini, "three").session("reading"))
    for one in sessions:
        await one.open()
    await sessions[1].try_lock()
    lock_status = await sessions[2].lock_status()
    assert [(member.role, member.instance) for member in lock_status.fleet] == [
        ("waiting", "one"),
        ("migrating", "two"),
    ]
    assert lock_status.holder is not None
    assert (lock_status.holder.instance, lock_status.holder.pid) == ("two", lock_status.fleet[1].pid)
    assert (lock_status.statement, lock_status.blocked_by, lock_status.grant) == (None, (), None)
    for one in sessions:
        await one.close()


async def test_a_session_can_be_closed_twice_and_opened_again(session: OperatorSession) -> None:
    """A session is closed twice: reading raises an error until the session is opened again."""
    await session.close()
    await session.close()
    with pytest.raises(DatabaseUnreachable):
        await session.store.observe()
    await session.open()
    assert await session.store.observe() == Observed()


async def test_a_unix_socket_and_a_list_of_hosts_connect(server: Server, database_url: str, tmp_path: Path) -> None:
    """The URL names a socket, or several hosts of which the first is down: the session connects and locks."""
    ini, name = tree(tmp_path, CREATE), database_url.rpartition("/")[2]
    several = (
        f"postgres://postgres@127.0.0.1:{free_port()},127.0.0.1:{server.port}/{name}?target_session_attrs=read-write"
    )
    for url in (server.socket_url(name), several):
        session = assembled(url, ini).session()
        await session.open()
        assert await session.try_lock()
        await session.close()


async def test_no_server_is_unreachable_and_a_refused_login_is_final(server: Server, tmp_path: Path) -> None:
    """No server listens: the error is transient; a refused login is final; neither error shows the URL."""
    ini = tree(tmp_path, CREATE)
    wrong = [
        (f"postgresql://u:geh3im@127.0.0.1:{free_port()}/d", DatabaseUnreachable),
        (server.url("no_such_database"), AccessRefused),
        (server.url("postgres", user="nobody_here", password="geh3im"), AccessRefused),
    ]
    for url, error in wrong:
        with pytest.raises(error) as raised:
            await assembled(url, ini).session().open()
        assert "geh3im" not in str(raised.value)
        assert "nobody_here" not in str(raised.value)


async def test_an_instance_waits_for_a_locked_version_table(database_url: str, tmp_path: Path) -> None:
    """Another session locks the version table: the instance says why, retries, and becomes ready afterwards."""
    assembly = assembled(database_url, tree(tmp_path, CREATE), lock_timeout_seconds=0.3)
    await assembly.coordinator().become_ready()
    late = assembled(database_url, tree(tmp_path, CREATE), "late", lock_timeout_seconds=0.3)
    async with in_the_way(database_url, "LOCK TABLE alembic_version", "somebody") as blocker:
        task = asyncio.create_task(late.coordinator().become_ready())
        while "has locked the version" not in (late.tracker.status.message or ""):
            await asyncio.wait({task}, timeout=0.05)
            assert not task.done()
        await blocker.close()
    await asyncio.wait_for(task, FOREVER_SECONDS)


async def test_an_orphaned_session_of_another_role_is_named(server: Server, database_url: str, tmp_path: Path) -> None:
    """Another role's session seems to migrate without the lock: the error names it, and no run starts beside it."""
    name = database_url.rpartition("/")[2]
    server.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'p'")
    server.execute(f'ALTER DATABASE "{name}" OWNER TO {name}')
    assembly = assembled(server.url(name, user=name, password="p"), tree(tmp_path, CREATE))
    ghost = await asyncpg.connect(database_url)
    await ghost.execute(f"SET application_name = '{application_name(assembly.database.key, 'migrating', 'ghost')}'")
    session = assembly.session()
    await session.open()
    with pytest.raises(PrivilegeMissing, match=rf"sessions \[{ghost.get_server_pid()}\] of another role"):
        await session.try_lock()
    await session.close()
    assert not ghost.is_closed()
    await ghost.close()
    server.execute(f'ALTER DATABASE "{name}" OWNER TO postgres')
    server.execute(f"DROP ROLE {name}")


async def test_a_role_without_privileges_fails_with_the_grant(
    server: Server, database_url: str, tmp_path: Path
) -> None:
    """A role may not create the version table: the error contains the GRANT that it needs."""
    name = database_url.rpartition("/")[2]
    server.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'p'")
    session = assembled(server.url(name, user=name, password="p"), tree(tmp_path, CREATE)).session()
    with pytest.raises(PrivilegeMissing, match="GRANT"):
        await migrate(session)
    await session.close()
    server.execute(f"DROP ROLE {name}")
