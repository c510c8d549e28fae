"""The MariaDB server of the tests behaves as the other tests assume."""

from collections.abc import Iterator

import asyncmy
import pytest
from asyncmy.errors import OperationalError

from tests.support.mariadb import PASSWORD, USER, MariaDB, MariaDBError, running_mariadb


@pytest.fixture(scope="module")
def own() -> Iterator[MariaDB]:
    """Yield a server that may be killed."""
    with running_mariadb() as server:
        yield server


async def answer(server: MariaDB, database: str, *, password: str = PASSWORD) -> tuple[object, ...]:
    """Connect over TCP; return database, character set and port."""
    where = {"host": "127.0.0.1", "port": server.port, "database": database}
    connection = await asyncmy.connect(**where, user=USER, password=password)
    try:
        async with connection.cursor() as cursor:
            await cursor.execute("SELECT database(), @@character_set_database, @@port")
            row: tuple[object, ...] = await cursor.fetchone()
            return row
    finally:
        await connection.ensure_closed()


async def test_a_new_database_is_empty_and_uses_utf8mb4(mariadb: MariaDB, mariadb_url: str) -> None:
    """A new database has no table and the character set utf8mb4, and a wrong password is refused."""
    name = mariadb_url.rpartition("/")[2]
    assert await answer(mariadb, name) == (name, "utf8mb4", mariadb.port)
    assert mariadb.query("SHOW TABLES", database=name) == []
    with pytest.raises(OperationalError, match="Access denied"):
        await answer(mariadb, name, password="wrong")


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_committed_rows_survive_a_restart(own: MariaDB, end: str) -> None:
    """The server is stopped or killed and started again: the port is the same and the committed row is kept."""
    with own.database("kept"):
        own.query("CREATE TABLE t (n INT); INSERT INTO t VALUES (7)", database="kept")
        before = own.pid
        getattr(own, end)()
        with pytest.raises(MariaDBError):
            own.query("SELECT 1")
        own.start()
        assert own.pid != before
        assert own.query("SELECT n, @@port FROM t", database="kept") == [["7", str(own.port)]]
