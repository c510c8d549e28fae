"""The servers under the tests are what the tests take them for."""

import ssl
from collections.abc import Callable

import asyncpg
import pytest

from tests.pooler import PgBouncer
from tests.servers import Server, fetch


async def test_a_database_is_empty_and_its_own(server: Server, database_url: str) -> None:
    """Each test gets a database without tables, on a server that keeps deadlock_timeout at its default."""
    tables = await fetch(database_url, "SELECT 1 FROM pg_class WHERE relnamespace = 'public'::regnamespace")
    assert tables == []
    assert [tuple(row) for row in server.execute("SHOW deadlock_timeout")] == [("1s",)]


async def test_a_wrong_password_is_refused(server: Server, database_url: str) -> None:
    """Only the superuser comes in without a password."""
    server.execute("CREATE ROLE guarded LOGIN PASSWORD 'right@%'")
    try:
        database = database_url.rpartition("/")[2]
        right = server.url(database, user="guarded", password="right@%")
        assert await fetch(right, "SELECT 1")
        with pytest.raises(asyncpg.InvalidPasswordError):
            await fetch(server.url(database, user="guarded", password="wrong"), "SELECT 1")
    finally:
        server.execute("DROP ROLE guarded")


async def test_the_socket_reaches_the_same_server(server: Server) -> None:
    """A unix socket is another way to the same postmaster."""
    started = "SELECT pg_postmaster_start_time()"
    assert await fetch(server.socket_url("postgres"), started) == server.execute(started)


@pytest.mark.parametrize("mode", ["fast", "immediate"])
async def test_a_restart_keeps_port_and_data(server: Server, database_url: str, mode: str) -> None:
    """The same URL answers afterwards, from another postmaster."""
    started = "SELECT pg_postmaster_start_time()"
    before = await fetch(database_url, started)
    server.restart(mode)
    assert await fetch(database_url, started) != before


async def test_the_tls_server_takes_no_plain_connection(debian_postgres: Server) -> None:
    """A test that reaches it has used TLS."""
    rows = await fetch(debian_postgres.superuser_url, "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
    assert rows[0]["ssl"] is True
    with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError):
        await asyncpg.connect(debian_postgres.superuser_url, ssl=False)
    with pytest.raises(ssl.SSLCertVerificationError):
        await asyncpg.connect(debian_postgres.superuser_url, ssl=ssl.create_default_context())


@pytest.mark.parametrize("pool_mode", ["session", "transaction"])
async def test_the_pooler_answers_with_a_backend_of_its_own(
    pgbouncer: Callable[..., PgBouncer], database_url: str, pool_mode: str
) -> None:
    """Through PgBouncer the pid in the protocol is not the backend's: this is how it gives itself away."""
    pooler = pgbouncer(pool_mode=pool_mode)
    url = pooler.url(database_url.rpartition("/")[2])
    connection = await asyncpg.connect(url, statement_cache_size=0)
    try:
        assert await connection.fetchval("SELECT pg_backend_pid()") != connection.get_server_pid()
    finally:
        await connection.close()
