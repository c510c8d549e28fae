"""The contract of the lock, on each database."""

from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from api.migrations.databases.postgres.session import PostgresSession
from api.migrations.databases.sql_session import SqlSession
from tests.support.lock_contract import Arena, LockContract, SessionLockContract, Sessions
from tests.support.places import MariaDBPlace, SqlitePlace
from tests.support.pooler import PgBouncer
from tests.support.servers import Server

UNLOCK = "SELECT pg_advisory_unlock_all()"
RELEASE = "DO RELEASE_ALL_LOCKS()"


def name_of(url: str) -> str:
    """Return the database's name."""
    return urlsplit(url).path[1:]


async def unlock_on_postgres(session: PostgresSession) -> None:
    """Release the lock behind the session's back, as a revision might."""
    await session._connection.execute(UNLOCK)


async def release_on_mariadb(session: SqlSession) -> None:
    """Release the lock behind the session's back, as a revision might."""
    await session._connection.exec_driver_sql(RELEASE)


class TestSessionLock(SessionLockContract):
    """The contract on PostgreSQL's advisory lock of a session."""

    @pytest.fixture
    def arena(self, server: Server, database_url: str) -> Iterator[Arena]:
        """Yield two databases on one server."""
        with server.database(f"{name_of(database_url)}_other") as other:
            yield Arena(database_url, other, unlock_on_postgres, f'op.execute("{UNLOCK}")')


class TestTransactionLock(LockContract):
    """The contract on PostgreSQL's advisory lock of a transaction, behind a transaction pooler."""

    @pytest.fixture
    def arena(self, server: Server, database_url: str, pgbouncer: Callable[..., PgBouncer]) -> Iterator[Arena]:
        """Yield two databases behind one pooler that has a connection for each session."""
        pooler = pgbouncer(pool_size=15)
        name = name_of(database_url)
        with server.database(f"{name}_other"):
            yield Arena(pooler.url(name), pooler.url(f"{name}_other"), unlock_on_postgres, f'op.execute("{UNLOCK}")')


class TestNamedLock(SessionLockContract):
    """The contract on `GET_LOCK` of MariaDB and MySQL."""

    @pytest.fixture
    def arena(self, each_mysql_place: MariaDBPlace) -> Iterator[Arena]:
        """Yield two databases on one server."""
        place = each_mysql_place
        with place.server.database(f"{place.database}_other") as other:
            losing = f'op.execute("{RELEASE}")'
            yield Arena(place.url, other, release_on_mariadb, losing, names_holder=False)


class TestFileLock(SessionLockContract):
    """The contract on `flock` of a file beside the SQLite database."""

    @pytest.fixture
    def arena(self, sqlite_place: SqlitePlace) -> Arena:
        """Return two files in one folder."""
        lock = sqlite_place.lock_file

        async def remove(session: SqlSession) -> None:
            lock.unlink()

        other = f"sqlite:///{sqlite_place.path.with_name('other.db')}"
        return Arena(sqlite_place.url, other, remove, f"from pathlib import Path; Path({str(lock)!r}).unlink()")

    async def test_a_link_to_the_database_uses_the_same_lock(
        self, sessions: Sessions, sqlite_place: SqlitePlace, tmp_path: Path
    ) -> None:
        """A second instance opens the database through a link: it cannot acquire the holder's lock."""
        link = tmp_path / "link.db"
        link.symlink_to(sqlite_place.path)
        await sessions.holder()
        second = await sessions("second", f"sqlite:///{link}")
        assert not await second.try_lock()
