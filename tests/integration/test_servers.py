"""The servers of the tests behave as the other tests assume."""

import ssl
from collections.abc import Callable

import asyncpg
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.support.pooler import PgBouncer
from tests.support.redis_server import RedisServer
from tests.support.servers import Server, fetch
from tests.support.waiting import wait_until


async def test_each_test_gets_an_empty_database(server: Server, database_url: str) -> None:
    """Each test gets a database without tables, on a server with the default deadlock_timeout."""
    tables = await fetch(database_url, "SELECT 1 FROM pg_class WHERE relnamespace = 'public'::regnamespace")
    assert tables == []
    assert [tuple(row) for row in server.execute("SHOW deadlock_timeout")] == [("1s",)]


async def test_a_wrong_password_is_refused(server: Server, database_url: str) -> None:
    """A role with a wrong password is refused; only the superuser needs none."""
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
    """The socket's URL leads to the same postmaster."""
    started = "SELECT pg_postmaster_start_time()"
    assert await fetch(server.socket_url("postgres"), started) == server.execute(started)


@pytest.mark.parametrize("mode", ["fast", "immediate"])
async def test_a_restart_keeps_port_and_data(server: Server, database_url: str, mode: str) -> None:
    """The server restarts: the same URL leads to a new postmaster with the database."""
    started = "SELECT pg_postmaster_start_time()"
    before = await fetch(database_url, started)
    server.restart(mode)
    assert await fetch(database_url, started) != before


async def test_the_tls_server_refuses_a_plain_connection(debian_postgres: Server) -> None:
    """The TLS server refuses a connection without TLS, and an unknown CA does not verify it."""
    rows = await fetch(debian_postgres.superuser_url, "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
    assert rows[0]["ssl"] is True
    with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError):
        await asyncpg.connect(debian_postgres.superuser_url, ssl=False)
    with pytest.raises(ssl.SSLCertVerificationError):
        await asyncpg.connect(debian_postgres.superuser_url, ssl=ssl.create_default_context())


@pytest.mark.parametrize("pool_mode", ["session", "transaction"])
async def test_the_pooler_reports_another_pid_than_the_backend(
    pgbouncer: Callable[..., PgBouncer], database_url: str, pool_mode: str
) -> None:
    """Through PgBouncer the pid of the protocol differs from the backend's, which reveals the pooler."""
    pooler = pgbouncer(pool_mode=pool_mode)
    url = pooler.url(database_url.rpartition("/")[2])
    connection = await asyncpg.connect(url, statement_cache_size=0)
    try:
        assert await connection.fetchval("SELECT pg_backend_pid()") != connection.get_server_pid()
    finally:
        await connection.close()


@pytest.mark.parametrize("keep", [True, False])
def test_a_restarted_redis_keeps_its_keys_only_on_request(redis_server: RedisServer, keep: bool) -> None:
    """Redis restarts with or without its data: the key is kept or gone."""
    redis_server.execute("SET", "k", "v")
    redis_server.restart(keep=keep)
    assert redis_server.execute("GET", "k") == ("v" if keep else None)


def test_a_frozen_redis_answers_once_it_is_thawed(redis_server: RedisServer) -> None:
    """A frozen Redis accepts a connection and does not answer; after the thaw it answers."""
    redis_server.freeze()
    with pytest.raises(redis.TimeoutError):
        redis_server.execute("PING")
    redis_server.thaw()
    assert redis_server.execute("PING")


def test_a_replica_follows_and_refuses_writes(redis_servers: Callable[..., RedisServer]) -> None:
    """A replica copies the key and refuses writes until it is promoted."""
    primary = redis_servers()
    replica = redis_servers(replica_of=primary)
    primary.execute("SET", "k", "v")
    wait_until(lambda: replica.execute("GET", "k") == "v", "the key on the replica", seconds=10)
    with pytest.raises(redis.ReadOnlyError):
        replica.execute("SET", "k", "w")
    replica.execute("REPLICAOF", "NO", "ONE")
    assert replica.execute("SET", "k", "w")


def test_a_redis_with_a_password_refuses_a_wrong_one(redis_servers: Callable[..., RedisServer]) -> None:
    """Redis requires a password: the server's URL has it, and a wrong one is refused."""
    server = redis_servers(requirepass="s3cret")
    assert server.execute("PING")
    with (
        redis.Redis.from_url(server.url_with("wrong"), retry=Retry(NoBackoff(), 0)) as client,
        pytest.raises(redis.AuthenticationError),
    ):
        client.ping()
