"""Who is in the way, as the server tells it from the side, and what becomes of the migration when it does not."""

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


class Heard(ProgressReporter):
    """Keeps what was said about each attempt that did not acquire its table lock."""

    def __init__(self) -> None:
        super().__init__(Tracker())
        self.blockers: list[Blocker] = []
        self.attempts: asyncio.Queue[int] = asyncio.Queue()

    def contended(self, revision: str, attempt: int, seconds: float, blockers: Sequence[Blocker]) -> None:
        """Keep it."""
        super().contended(revision, attempt, seconds, blockers)
        self.blockers.extend(blockers)
        self.attempts.put_nowait(attempt)


@pytest.fixture
async def table_url(database_url: str) -> str:
    """A database with a table of one row."""
    await fetch(database_url, "CREATE TABLE t AS SELECT 1 AS a")
    return database_url


@pytest.fixture
def plain_role(server: Server, table_url: str) -> Iterator[str]:
    """The URL of a role that owns the table, and sees no more of other roles than anybody."""
    name = urlsplit(table_url).path[1:]
    server.execute(f"CREATE ROLE {ROLE} LOGIN PASSWORD 'secret'")
    server.execute(f"ALTER TABLE t OWNER TO {ROLE}", database=name)
    server.execute(f"GRANT CREATE ON SCHEMA public TO {ROLE}", database=name)
    yield server.url(name, user=ROLE, password="secret")
    server.execute(f"DROP OWNED BY {ROLE} CASCADE", database=name)
    server.execute(f"DROP ROLE {ROLE}")


@asynccontextmanager
async def migrating(url: str, ini: Path, heard: Heard) -> AsyncIterator[None]:
    """Somebody who runs the revisions; at the end they must all be there."""
    session: OperatorSession = assembled(url, ini, lock_timeout_seconds=2).session()
    try:
        await session.open()
        assert await session.try_lock()
        async with asyncio.timeout(FOREVER_SECONDS), asyncio.TaskGroup() as tasks:
            tasks.create_task(session.run(MigrationRequest("upgrade", "head"), heard))
            yield
        assert await session.store.observe() == Observed(frozenset({"r1"}))
        await session.unlock()
    finally:
        await session.close()


async def test_it_names_the_session(table_url: str, tmp_path: Path) -> None:
    """Process id, name, user, state, age of the transaction, table and lock; and again for each attempt."""
    heard = Heard()
    async with in_the_way(table_url, LOOK, NAME) as blocker, migrating(table_url, tree(tmp_path, ALTER), heard):
        assert [await heard.attempts.get() for _ in range(3)] == [1, 2, 3]
        pid = blocker.get_server_pid()
        await blocker.close()
    seen = heard.blockers[-1]
    assert (seen.pid, seen.application, seen.user, seen.state) == (pid, NAME, "postgres", "idle in transaction")
    assert (seen.relation, seen.mode) == ("t", "AccessExclusiveLock")
    assert seen.seconds is not None
    assert f"pid {pid} ({NAME}, user postgres, idle in transaction for " in str(seen)


async def test_a_row_that_somebody_changed_has_no_table(table_url: str, tmp_path: Path) -> None:
    """A revision that waits for a row waits for the other's transaction; the session is named all the same."""
    heard = Heard()
    changed = in_the_way(table_url, "UPDATE t SET a = 3", NAME)
    async with changed as blocker, migrating(table_url, tree(tmp_path, UPDATE), heard):
        assert [await heard.attempts.get() for _ in range(3)] == [1, 2, 3]
        await blocker.close()
    assert (heard.blockers[-1].application, heard.blockers[-1].relation) == (NAME, None)
    assert "None" not in str(heard.blockers[-1])


async def test_a_plain_role_learns_the_process_id(table_url: str, plain_role: str, tmp_path: Path) -> None:
    """What it may not see of another role's session is left out, and nothing fails for it."""
    heard = Heard()
    async with in_the_way(table_url, LOOK, NAME) as blocker, migrating(plain_role, tree(tmp_path, ALTER), heard):
        assert [await heard.attempts.get() for _ in range(3)] == [1, 2, 3]
        pid = blocker.get_server_pid()
        await blocker.close()
    seen = heard.blockers[-1]
    assert (seen.pid, seen.application, seen.state, seen.seconds) == (pid, NAME, None, None)
    assert (seen.relation, seen.mode) == ("t", "AccessExclusiveLock")
    assert "state hidden" in str(seen)


async def test_without_a_connection_to_spare_it_goes_on(
    server: Server, table_url: str, plain_role: str, tmp_path: Path
) -> None:
    """The role may have one connection, and the migration has it: nobody is named, and the revision is applied."""
    server.execute(f"ALTER ROLE {ROLE} CONNECTION LIMIT 1")
    heard = Heard()
    async with in_the_way(table_url, LOOK, NAME) as blocker, migrating(plain_role, tree(tmp_path, ALTER), heard):
        assert [await heard.attempts.get() for _ in range(3)] == [1, 2, 3]
        await blocker.close()
    assert heard.blockers == []


@pytest.mark.parametrize(
    "error", [ConnectionRefusedError, TimeoutError, asyncpg.TooManyConnectionsError, asyncpg.InternalClientError]
)
async def test_whatever_becomes_of_its_connection(database_url: str, error: type[Exception]) -> None:
    """A failure of the one that watches is never one of the one that works."""
    asked = asyncio.Event()

    async def refuse() -> asyncpg.Connection:
        asked.set()
        raise error("no")

    seen: list[LockStatus] = []
    raw = await asyncpg.connect(database_url)
    try:
        observer, engine = Observer(refuse, KEY, seen.append), engine_over(raw, "READ COMMITTED")
        async with observer.watching(engine.sync_engine), engine.connect() as connection:
            await connection.execute(sa.text(f"SELECT pg_sleep({scaled(1)})"))
        assert (asked.is_set(), observer.blockers, seen) == (True, (), [])
    finally:
        await raw.close()
