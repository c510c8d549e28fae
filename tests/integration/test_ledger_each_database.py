"""Differences between PostgreSQL, MariaDB and SQLite that the ledger's answers must not show."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from api.ledger.database import Database
from api.ledger.errors import DatabaseUnavailable
from api.ledger.idempotency import fingerprint
from api.ledger.schemas import NewTransaction
from api.migrations.urls.database_url import DatabaseURL
from tests.conftest import PROJECT
from tests.integration.ledger_client import LedgerClient, ledger_client, transfer
from tests.support.mariadb import MariaDB
from tests.support.pace import scaled
from tests.support.waiting import FOREVER_SECONDS, wait_until
from tests.support.warm import Process

INSERT = "INSERT INTO transactions (idempotency_key, request_sha256, description) VALUES ('once', :digest, '')"


async def test_keys_that_differ_in_case_or_in_a_space_are_different_keys(each_client: LedgerClient) -> None:
    """Four keys differ only in case or a space, which MySQL's collation ignores: four transactions are made."""
    body = transfer(*await each_client.pair(), 7)
    answers = [await each_client.post(body, key=key) for key in ('"a"', '"A"', '"a "', '" a"')]
    assert [answer.status_code for answer in answers] == [201] * 4
    assert (await each_client.post(body, key='"a "')).json() == answers[2].json()


async def test_any_text_comes_back_as_it_was_sent(each_client: LedgerClient) -> None:
    """A description with emoji, quotes, backslashes, placeholders and final spaces is returned unchanged."""
    description = "rent 🏠 'a' \"b\" \\ \\' %s %(x)s :y ; -- ½  "
    body = {**transfer(*await each_client.pair()), "description": description}
    posted = await each_client.post(body)
    listed = (await each_client.http.get("/transactions")).json()["transactions"]
    assert posted.json()["description"] == description
    assert listed == [posted.json()]


async def test_the_database_refuses_a_currency_that_differs_in_case(each_ledger_url: str) -> None:
    """A posting bypasses the service with a currency in another case: the composite foreign key refuses it."""
    async with ledger_client(each_ledger_url) as client:
        left, right = await client.pair()
        made = await client.move(left, right)
    database = Database(DatabaseURL.parse(each_ledger_url))
    try:
        with pytest.raises(IntegrityError):
            async with database.sessions(writing=True) as session:
                insert = text("INSERT INTO postings VALUES (:made, 2, :left, 'eur', 1, CURRENT_DATE)")
                await session.execute(insert, {"made": made["id"], "left": left})
    finally:
        await database.dispose()


async def test_the_default_of_created_at_is_in_utc(each_ledger_url: str) -> None:
    """A session in another time zone inserts a transaction: the default of created_at is in UTC."""
    async with ledger_client(each_ledger_url) as client:
        before = await client.move(*await client.pair())
        database = Database(DatabaseURL.parse(each_ledger_url))
        async with AsyncExitStack() as stack:
            stack.push_async_callback(database.dispose)
            async with database.sessions(writing=True) as session:
                if each_ledger_url.startswith("mysql"):
                    await session.execute(text("SET time_zone = '+05:00'"))
                await session.execute(text(INSERT), {"digest": ""})
        given, _ = (await client.http.get("/transactions")).json()["transactions"]
        after = await client.move(*await client.pair())
    # SQLite's CURRENT_TIMESTAMP has whole seconds
    assert before["created_at"][:19] <= given["created_at"][:19] <= after["created_at"][:19]
    assert given["created_at"].endswith("Z")


async def test_many_processes_that_post_one_key_make_one_transaction(each_ledger_url: str) -> None:
    """Three processes post one key five times each: one answer is 201, and all have the same transaction."""
    async with ledger_client(each_ledger_url) as client:
        left, right = await client.pair()
    body = json.dumps(transfer(left, right, 7))
    with (
        poster(each_ledger_url, body) as one,
        poster(each_ledger_url, body) as two,
        poster(each_ledger_url, body) as three,
    ):
        posters = (one, two, three)
        for process in posters:
            assert process.stdout is not None
            assert await asyncio.to_thread(process.stdout.readline) == b"ready\n"
        outputs = await asyncio.gather(*(asyncio.to_thread(process.communicate, b"go\n") for process in posters))
    answers = [answer for output, _ in outputs for answer in json.loads(output)]
    assert sorted(status for status, _ in answers) == [200] * 14 + [201]
    assert len({answer for _, answer in answers}) == 1
    async with ledger_client(each_ledger_url) as client:
        assert await client.balance(right) == 7


@contextmanager
def poster(url: str, body: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Start a process that will post `body` five times; kill it at the end."""
    command = [sys.executable, "-m", "tests.integration.ledger_poster", url, "once", body, "5"]
    with Process(command, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize(("kept", "statuses"), [(True, [200] * 3), (False, [200, 200, 201])])
async def test_mariadb_requests_wait_for_the_holder_of_their_key(
    mariadb: MariaDB, mariadb_ledger_url: str, kept: bool, statuses: list[int]
) -> None:
    """Another session holds the key: requests wait, then get its transaction or, after a rollback, their own."""
    holder = Database(DatabaseURL.parse(mariadb_ledger_url))
    async with ledger_client(mariadb_ledger_url) as client:
        body = transfer(*await client.pair())
        digest = fingerprint(NewTransaction.model_validate(body))
        try:
            async with holder.sessions(writing=True) as session:
                await session.execute(text(INSERT), {"digest": digest})
                others = [asyncio.create_task(client.post(body, key="once")) for _ in range(3)]
                await asyncio.to_thread(wait_until, lambda: waiting(mariadb) == 3, "three wait for the key", seconds=10)
                if not kept:
                    await session.rollback()
            answers = await asyncio.gather(*others)
        finally:
            await holder.dispose()
    assert sorted(answer.status_code for answer in answers) == statuses
    assert len({answer.text for answer in answers}) == 1


def waiting(mariadb: MariaDB) -> int:
    """Return how many sessions wait for a row; `innodb_trx` would not change while it is polled."""
    [[_, number]] = mariadb.query("SHOW GLOBAL STATUS LIKE 'Innodb_row_lock_current_waits'")
    return int(number)


async def test_a_sqlite_writer_times_out_while_readers_continue(sqlite_ledger_url: str) -> None:
    """Another session writes past the timeout: a second writer gets SQLITE_BUSY, and a reader succeeds."""
    url = DatabaseURL.parse(sqlite_ledger_url)
    holder, hasty = Database(url), Database(url, command_timeout_seconds=scaled(0.3))
    try:
        async with holder.sessions(writing=True) as session:
            await session.execute(text("SELECT 1"))
            with pytest.raises(DatabaseUnavailable) as refused:
                async with hasty.sessions(writing=True) as other:
                    await other.execute(text("SELECT 1"))
            assert refused.value.reason == "SQLITE_BUSY"
            async with hasty.sessions() as reader:
                assert await reader.scalar(text("SELECT count(*) FROM transactions")) == 0
    finally:
        await holder.dispose()
        await hasty.dispose()


def test_the_service_needs_only_the_driver_of_its_database() -> None:
    """The drivers of MySQL and SQLite are missing: a PostgreSQL URL works and a SQLite URL is refused."""
    script = (
        "import sys; sys.modules['asyncmy'] = sys.modules['aiosqlite'] = None;"
        "from api.ledger.database import Database; import api.main;"
        "from api.migrations.urls.database_url import DatabaseURL;"
        "Database(DatabaseURL.parse('postgresql://u@h/d')); Database(DatabaseURL.parse('sqlite:///x.db'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=PROJECT,
        env=os.environ,
        capture_output=True,
        text=True,
        timeout=FOREVER_SECONDS,
    )
    assert done.stderr.splitlines()[-1].startswith("api.migrations.errors.ConfigurationError: a sqlite URL needs")
