"""The session that blocks a revision, as a second connection reads it, and the migration without that connection."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest
import sqlalchemy as sa

from api.migrations.core.lock_key import LockKey
from api.migrations.core.protocols import MigrationRequest, OperatorSession
from api.migrations.core.reporter import ProgressReporter
from api.migrations.core.schema import Observed
from api.migrations.core.status import Blocker, LockStatus, Tracker
from api.migrations.databases.postgres.connection import engine_over
from api.migrations.databases.postgres.lock_watcher import Observer
from tests.support.fakes import FOREVER_SECONDS, assembled, in_the_way, tree
from tests.support.pace import scaled
from tests.support.servers import Server, fetch

LOOK = "SELECT * FROM t"
NAME = "nightly-report"
ROLE = f"plain_{os.getpid()}"
KEY = LockKey.derive("fastapi", "alembic_version", None)
ALTER = 'op.execute("ALTER TABLE t ADD COLUMN b int")'
UPDATE = 'op.execute("UPDATE t SET a = 2")'


class BlockerReporter(ProgressReporter):
    """A reporter that keeps each report of a blocked attempt."""

    def __init__(self) -> None:
        super().__init__(Tracker())
        self.blockers: list[Blocker] = []
        self.attempts: asyncio.Queue[int] = asyncio.Queue()

    def contended(self, revision: str, attempt: int, seconds: float, blockers: Sequence[Blocker] | None) -> None:
        """Keep the report."""
        super().contended(revision, attempt, seconds, blockers)
        self.blockers.extend(self._tracker.status.lock_status.blocked_by)
        self.attempts.put_nowait(attempt)


@pytest.fixture
async def table_url(database_url: str) -> str:
    """Return a database with a table of one row."""
    await fetch(database_url, "CREATE TABLE t AS SELECT 1 AS a")
    return database_url


@pytest.fixture
def plain_role(server: Server, table_url: str) -> Iterator[str]:
    """Yield the URL of a role that owns the table and cannot see other roles' sessions."""
    name = urlsplit(table_url).path[1:]
    server.execute(f"CREATE ROLE {ROLE} LOGIN PASSWORD 'secret'")
    server.execute(f"ALTER TABLE t OWNER TO {ROLE}", database=name)
    server.execute(f"GRANT CREATE ON SCHEMA public TO {ROLE}", database=name)
    yield server.url(name, user=ROLE, password="secret")
    server.execute(f"DROP OWNED BY {ROLE} CASCADE", database=name)
    server.execute(f"DROP ROLE {ROLE}")


@asynccontextmanager
async def migrating(url: str, ini: Path, heard: BlockerReporter, at: str = "r1") -> AsyncIterator[None]:
    """Run the revisions while the block runs, and assert that the database is `at` the last one at the end."""
    session: OperatorSession = assembled(url, ini, lock_timeout_seconds=2).session()
    try:
        await session.open()
        assert await session.try_lock()
        async with asyncio.timeout(FOREVER_SECONDS), asyncio.TaskGroup() as tasks:
            tasks.create_task(session.run(MigrationRequest("upgrade", "head"), heard))
            yield
        assert await session.store.observe() == Observed(frozenset({at}))
        await session.unlock()
    finally:
        await session.close()


async def test_each_blocked_attempt_names_the_blocking_session(table_url: str, tmp_path: Path) -> None:
    """A table lock blocks three attempts: each report has the session's pid, name, user, state, table and lock."""
    heard = BlockerReporter()
    async with in_the_way(table_url, LOOK, NAME) as blocker, migrating(table_url, tree(tmp_path, ALTER), heard):
        assert [await heard.attempts.get() for _ in range(3)] == [1, 2, 3]
        pid = blocker.get_server_pid()
        await blocker.close()
    seen = heard.blockers[-1]
    assert (seen.pid, seen.application, seen.user, seen.state) == (pid, NAME, "postgres", "idle in transaction")
    assert (seen.relation, seen.mode) == ("t", "AccessExclusiveLock")
    assert seen.seconds is not None
    assert f"pid {pid} ({NAME}, user postgres, idle in transaction for " in str(seen)


async def test_a_row_lock_names_the_blocking_session_without_a_table(table_url: str, tmp_path: Path) -> None:
    """Another session changed a row: the report names that session, and no table."""
    heard = BlockerReporter()
    changed = in_the_way(table_url, "UPDATE t SET a = 3", NAME)
    async with changed as blocker, migrating(table_url, tree(tmp_path, UPDATE), heard):
        assert [await heard.attempts.get() for _ in range(3)] == [1, 2, 3]
        await blocker.close()
    assert (heard.blockers[-1].application, heard.blockers[-1].relation) == (NAME, None)
    assert "None" not in str(heard.blockers[-1])


async def test_a_plain_role_reads_the_pid_of_the_blocking_session(
    table_url: str, plain_role: str, tmp_path: Path
) -> None:
    """A role without rights on other sessions is blocked: the report has the pid and says that the state is hidden."""
    heard = BlockerReporter()
    async with in_the_way(table_url, LOOK, NAME) as blocker, migrating(plain_role, tree(tmp_path, ALTER), heard):
        assert [await heard.attempts.get() for _ in range(3)] == [1, 2, 3]
        pid = blocker.get_server_pid()
        await blocker.close()
    seen = heard.blockers[-1]
    assert (seen.pid, seen.application, seen.state, seen.seconds) == (pid, NAME, None, None)
    assert (seen.relation, seen.mode) == ("t", "AccessExclusiveLock")
    assert "state hidden" in str(seen)


async def test_a_role_with_one_connection_migrates_without_naming_the_blocker(
    server: Server, table_url: str, plain_role: str, tmp_path: Path
) -> None:
    """The role may open one connection: no blocking session is named, and the revision is applied."""
    server.execute(f"ALTER ROLE {ROLE} CONNECTION LIMIT 1")
    heard = BlockerReporter()
    async with in_the_way(table_url, LOOK, NAME) as blocker, migrating(plain_role, tree(tmp_path, ALTER), heard):
        assert [await heard.attempts.get() for _ in range(3)] == [1, 2, 3]
        await blocker.close()
    assert heard.blockers == []


@pytest.mark.parametrize(
    "error", [ConnectionRefusedError, TimeoutError, asyncpg.TooManyConnectionsError, asyncpg.InternalClientError]
)
async def test_an_observer_that_cannot_connect_does_not_fail_the_run(database_url: str, error: type[Exception]) -> None:
    """The observer's connection fails: the observed statement finishes and no session is named."""
    asked = asyncio.Event()

    async def refuse() -> asyncpg.Connection:
        asked.set()
        raise error("no")

    seen: list[LockStatus] = []
    raw = await asyncpg.connect(database_url)
    try:
        observer, engine = Observer(refuse, KEY, seen.append), engine_over(raw, "READ COMMITTED")
        observer.listen(engine.sync_engine)
        async with observer.watching(), engine.connect() as connection:
            await connection.execute(sa.text(f"SELECT pg_sleep({scaled(1)})"))
        assert (asked.is_set(), observer.blockers, seen) == (True, (), [])
    finally:
        await raw.close()
