"""The ledger's connection pool: no connection at start-up, no state behind poolers, and 503 without a database."""

import logging
from collections.abc import Callable
from contextlib import AsyncExitStack

import pytest
from sqlalchemy import text

from api.ledger.database import Database
from api.ledger.errors import DatabaseUnavailable
from api.migrations.urls.database_url import DatabaseURL
from devtools.ports import free_port
from tests.integration.ledger_client import (
    LedgerClient,
    ledger_client,
    refusal,
    sessions_of_ledger,
    transfer,
    until_sessions,
)
from tests.support.pooler import PgBouncer
from tests.support.servers import Server, fetch


async def answers(client: LedgerClient) -> bool:
    """Return whether a request that needs the database succeeds."""
    return (await client.http.get("/transactions")).status_code == 200


async def test_the_pool_connects_at_the_first_request(ledger_url: str) -> None:
    """Start-up opens no connection, the first request opens one named `ledger`, and shutdown closes it."""
    async with ledger_client(ledger_url) as client:
        assert sessions_of_ledger(ledger_url) == 0
        assert await answers(client)
        assert sessions_of_ledger(ledger_url) == 1
    await until_sessions(ledger_url, 0)


async def test_an_exception_rolls_back_and_returns_the_connection(ledger_url: str) -> None:
    """A block raises: its transaction is rolled back and the connection is usable again."""
    database = Database(DatabaseURL.parse(ledger_url), pool_size=1, max_overflow=0)
    try:
        with pytest.raises(ZeroDivisionError):
            async with database.sessions() as session:
                await session.execute(text("INSERT INTO accounts (name, currency) VALUES ('lost', 'EUR')"))
                raise ZeroDivisionError
        async with database.sessions() as session:
            assert await session.scalar(text("SELECT count(*) FROM accounts")) == 0
    finally:
        await database.dispose()


async def test_no_prepared_statement_stays_on_the_server(ledger_url: str) -> None:
    """A session leaves no prepared statement, which another server connection behind a pooler would lack."""
    database = Database(DatabaseURL.parse(ledger_url), pool_size=1, max_overflow=0)
    try:
        for _ in range(3):
            async with database.sessions() as session:
                await session.execute(text("SELECT 1"))
                assert await session.scalar(text("SELECT count(*) FROM pg_prepared_statements")) == 0
    finally:
        await database.dispose()


async def test_a_connection_ended_by_the_server_is_replaced(ledger_url: str) -> None:
    """The server terminates the pool's connection between two requests: the next request succeeds."""
    async with ledger_client(ledger_url) as client:
        assert await answers(client)
        await fetch(
            ledger_url,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name LIKE 'ledger@%'",
        )
        await until_sessions(ledger_url, 0)
        assert await answers(client)


async def test_an_unreachable_database_is_503(caplog: pytest.LogCaptureFixture) -> None:
    """The database is down: the answer is 503 with Retry-After and no address, and one log line has the reason."""
    async with ledger_client(f"postgresql://postgres:secret@127.0.0.1:{free_port()}/postgres") as client:
        with caplog.at_level(logging.WARNING):
            response = await client.http.get("/accounts/1")
    detail = refusal(response, 503, "database-unavailable")
    assert response.headers["retry-after"] == "1"
    assert "127.0.0.1" not in detail
    [record] = [record for record in caplog.records if record.message == "ledger.database_unavailable"]
    assert record.__dict__["reason"] == "ConnectionRefusedError"


async def test_a_database_that_does_not_exist_is_503(server: Server) -> None:
    """The database does not exist: the error has the SQLSTATE 3D000."""
    database = Database(DatabaseURL.parse(server.url("no_such_database")))
    try:
        with pytest.raises(DatabaseUnavailable) as refused:
            async with database.sessions() as session:
                await session.execute(text("SELECT 1"))
        assert refused.value.reason == "3D000"
    finally:
        await database.dispose()


async def test_an_exhausted_pool_is_503(ledger_url: str) -> None:
    """All connections of the pool are in use: a request fails after the pool's timeout instead of waiting forever."""
    database = Database(DatabaseURL.parse(ledger_url), pool_size=1, max_overflow=0, pool_timeout_seconds=0.1)
    try:
        async with AsyncExitStack() as held:
            await (await held.enter_async_context(database.sessions())).execute(text("SELECT 1"))
            with pytest.raises(DatabaseUnavailable):
                async with database.sessions() as session:
                    await session.execute(text("SELECT 1"))
    finally:
        await database.dispose()


async def test_a_missing_table_is_not_reported_as_an_outage(ledger_url: str) -> None:
    """A statement names a missing table: the error is not DatabaseUnavailable."""
    database = Database(DatabaseURL.parse(ledger_url))
    try:
        with pytest.raises(Exception, match="no_such_table") as failed:
            async with database.sessions() as session:
                await session.execute(text("SELECT * FROM no_such_table"))
        assert not isinstance(failed.value, DatabaseUnavailable)
    finally:
        await database.dispose()


@pytest.mark.parametrize("pool_mode", ["session", "transaction"])
async def test_the_ledger_works_behind_pgbouncer(
    pgbouncer: Callable[..., PgBouncer], ledger_url: str, pool_mode: str
) -> None:
    """Behind PgBouncer, in both pool modes, the ledger posts transactions and answers replays."""
    pooler = pgbouncer(pool_mode=pool_mode, pool_size=2 if pool_mode == "transaction" else 10)
    async with ledger_client(pooler.url(ledger_url.rpartition("/")[2])) as client:
        body = transfer(*await client.pair(), 7)
        made = [await client.post(body, key=f"key-{number}") for number in (1, 2, 2, 3, 3, 3)]
        assert [response.status_code for response in made] == [201, 201, 200, 201, 200, 200]
        assert await client.balance(body["postings"][1]["account_id"]) == 21


async def test_the_ledger_connects_over_a_unix_socket(server: Server, ledger_url: str) -> None:
    """The URL is one of libpq with a socket, which SQLAlchemy would refuse: a request succeeds."""
    async with ledger_client(server.socket_url(ledger_url.rpartition("/")[2])) as client:
        assert await answers(client)
