"""The MariaDB under the tests is what the tests take it for."""

from collections.abc import Iterator

import asyncmy
import pytest
from asyncmy.errors import OperationalError

from tests.support.mariadb import PASSWORD, USER, MariaDB, MariaDBError, running_mariadb


@pytest.fixture(scope="module")
def own() -> Iterator[MariaDB]:
    """A server that may be killed."""
    with running_mariadb() as server:
        yield server


async def answer(server: MariaDB, database: str, *, password: str = PASSWORD) -> tuple[object, ...]:
    """Who one is over TCP, and where."""
    where = {"host": "127.0.0.1", "port": server.port, "database": database}
    connection = await asyncmy.connect(**where, user=USER, password=password)
    try:
        async with connection.cursor() as cursor:
            await cursor.execute("SELECT database(), @@character_set_database, @@port")
            row: tuple[object, ...] = await cursor.fetchone()
            return row
    finally:
        await connection.ensure_closed()


async def test_a_database_is_empty_and_takes_every_character(mariadb: MariaDB, mariadb_url: str) -> None:
    """Reached over TCP by an account that needs its password."""
    name = mariadb_url.rpartition("/")[2]
    assert await answer(mariadb, name) == (name, "utf8mb4", mariadb.port)
    assert mariadb.query("SHOW TABLES", database=name) == []
    with pytest.raises(OperationalError, match="Access denied"):
        await answer(mariadb, name, password="wrong")


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_what_was_committed_outlives_the_server(own: MariaDB, end: str) -> None:
    """On the same port, whether it was shut down or crashed."""
    with own.database("kept"):
        own.query("CREATE TABLE t (n INT); INSERT INTO t VALUES (7)", database="kept")
        before = own.pid
        getattr(own, end)()
        with pytest.raises(MariaDBError):
            own.query("SELECT 1")
        own.start()
        assert own.pid != before
        assert own.query("SELECT n, @@port FROM t", database="kept") == [["7", str(own.port)]]
