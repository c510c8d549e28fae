"""The schema changes under the ledger's load: every request succeeds. With other engines the same load fails."""

import asyncio
from collections.abc import Callable
from typing import Any

import asyncpg
import pytest
from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from api.ledger import database
from api.ledger.engines import engine_of
from api.migrations.urls.database_url import DatabaseURL
from tests.integration.ledger_client import LedgerClient, ledger_client, transfer, until_sessions
from tests.support.servers import fetch
from tests.support.waiting import until

CLIENTS = 3

WARM_ROUNDS = 5
"""Then each of the pool's two connections has executed every statement so often that psycopg prepares it."""

CHANGES = [
    "ALTER TABLE accounts ADD COLUMN extra integer NOT NULL DEFAULT 1",
    "ALTER TABLE transactions ALTER COLUMN description TYPE text",
    "CREATE INDEX CONCURRENTLY extra ON transactions (description)",
    "ALTER TABLE postings ADD CONSTRAINT extra CHECK (position < 1000) NOT VALID",
    "ALTER TABLE postings VALIDATE CONSTRAINT extra",
    "ALTER TABLE postings ALTER COLUMN position TYPE bigint",
    "DROP INDEX CONCURRENTLY extra",
    "ALTER TABLE accounts DROP COLUMN extra",
]

CHANGED_TYPE = ["ALTER TABLE postings ALTER COLUMN position TYPE bigint"]

Engine = Callable[..., AsyncEngine]


def small(url: DatabaseURL, command_timeout_seconds: float, **_pool: Any) -> AsyncEngine:
    """Return the ledger's own engine with two connections."""
    return engine_of(url, command_timeout_seconds, pool_size=2, max_overflow=0, pool_timeout=60)


def with_arguments(driver: str, **arguments: object) -> Engine:
    """Return what makes an engine with these connect arguments, and two connections."""

    def make(url: DatabaseURL, *_: Any, **_pool: Any) -> AsyncEngine:
        target = make_url(url.dsn).set(drivername=f"postgresql+{driver}")
        return create_async_engine(target, connect_args=arguments, pool_size=2, max_overflow=0, pool_timeout=60)

    return make


class Load:
    """One client that posts and reads until `stop`; `failures` are the answers and errors that it did not expect."""

    def __init__(self, client: LedgerClient, accounts: tuple[int, int]) -> None:
        self.client = client
        self.accounts = accounts
        self.rounds = 0
        self.failures: list[str] = []

    async def run(self, stop: asyncio.Event) -> None:
        """Send requests until `stop`, the first of them on open connections."""
        while not stop.is_set():
            await self.expect(201, self.client.post(transfer(*self.accounts)))
            await self.expect(200, self.client.http.get(f"/accounts/{self.accounts[0]}"))
            await self.expect(200, self.client.http.get("/transactions?limit=3"))
            self.rounds += 1

    async def expect(self, status: int, request: Any) -> None:
        """Send a request; keep its answer, or the error that the service does not handle, if it has failed."""
        try:
            answer = await request
        except Exception as error:
            self.failures.append(f"{type(error).__name__}: {error}")
        else:
            if answer.status_code != status:
                self.failures.append(f"{answer.status_code} {answer.text}")


async def under_load(url: str, changes: list[str]) -> list[str]:
    """Execute `changes` one after another while clients use the ledger; return what failed.

    After each change, every client makes two more rounds, so at least one of them has begun after it.
    """
    stop = asyncio.Event()
    async with ledger_client(url) as client:
        loads = [Load(client, await client.pair()) for _ in range(CLIENTS)]

        async def rounds(number: int) -> None:
            ends = [load.rounds + number for load in loads]

            async def made() -> bool:
                return all(load.rounds >= end for load, end in zip(loads, ends, strict=True))

            await until(made, f"{number} rounds of each client")

        async with asyncio.TaskGroup() as tasks:
            for load in loads:
                tasks.create_task(load.run(stop))
            await rounds(WARM_ROUNDS)
            for change in changes:
                await fetch(url, change)
                await rounds(2)
            stop.set()
        return [failure for load in loads for failure in load.failures]


@pytest.mark.parametrize(
    ("engine", "changes"),
    [(small, CHANGES), (with_arguments("psycopg", prepare_threshold=None), CHANGED_TYPE)],
    ids=["ledger", "psycopg, prepare_threshold=None"],
)
async def test_no_request_fails_while_the_schema_changes(
    ledger_url: str, monkeypatch: pytest.MonkeyPatch, engine: Engine, changes: list[str]
) -> None:
    """Columns change their types, come and go, indexes are built, constraints validated: no request fails."""
    monkeypatch.setattr(database, "engine_of", engine)
    assert await under_load(ledger_url, changes) == []


@pytest.mark.parametrize(
    ("engine", "error"),
    [
        (with_arguments("asyncpg"), "cached statement plan is invalid"),
        (with_arguments("asyncpg", statement_cache_size=0), "unexpected trailing 4 bytes in buffer"),
        (with_arguments("psycopg"), "cached plan must not change result type"),
    ],
    ids=["asyncpg", "asyncpg, statement_cache_size=0", "psycopg"],
)
async def test_the_same_load_fails_with_cached_statements(
    ledger_url: str, monkeypatch: pytest.MonkeyPatch, engine: Engine, error: str
) -> None:
    """With an engine that caches statements, a change of a column's type fails requests of pooled connections."""
    monkeypatch.setattr(database, "engine_of", engine)
    failures = await under_load(ledger_url, CHANGED_TYPE)
    assert failures
    assert all(error in failure for failure in failures), failures


async def test_a_request_that_deadlocks_with_a_revision_is_repeated(ledger_url: str) -> None:
    """A revision over two tables deadlocks with a read, which PostgreSQL rolls back: it is repeated and succeeds."""
    # time for the revision to complete the deadlock before the read looks for one
    seconds = "EXECUTE format('ALTER DATABASE %I SET deadlock_timeout = ''2s''', current_database())"
    await fetch(ledger_url, f"DO $$ BEGIN {seconds}; END $$")
    revision = await asyncpg.connect(ledger_url)
    try:
        async with ledger_client(ledger_url) as client:
            account = await client.open()
            # so that the read looks first
            await revision.execute("SET deadlock_timeout = '1min'")
            async with revision.transaction():
                await revision.execute("LOCK TABLE postings")
                read = asyncio.create_task(client.http.get(f"/accounts/{account}"))
                await until_sessions(ledger_url, 1, waiting_for_a_lock=True)
                await revision.execute("LOCK TABLE accounts")
                assert not read.done()
            assert (await read).status_code == 200
    finally:
        await revision.close()
