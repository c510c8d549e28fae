"""A lock holder that stops between sending a statement and executing it loses its session to a waiter."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest

from api.migrations.core.lock_key import LockKey
from tests.support.fakes import FOREVER_SECONDS, assembled, eventually, tree
from tests.support.pace import scaled
from tests.support.servers import fetch

KEY = LockKey.derive("fastapi", "alembic_version", None)
LIMIT = scaled(0.5)
SILENT = (
    "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND wait_event = 'ClientRead' AND pid = {pid} "
    f"AND state_change < clock_timestamp() - interval '{LIMIT} s'"
)


@asynccontextmanager
async def holding(url: str) -> AsyncIterator[asyncpg.Connection]:
    """Yield a session that holds the lock."""
    connection = await asyncpg.connect(url, statement_cache_size=0)
    try:
        assert await connection.fetchval("SELECT pg_try_advisory_lock($1)", KEY.value)
        yield connection
    finally:
        connection.terminate()


async def until_silent(url: str, holder: asyncpg.Connection) -> None:
    """Wait until the server has waited for the lock holder's next message for longer than the limit."""
    await eventually(url, SILENT.format(pid=holder.get_server_pid()), "a silent holder")


async def test_a_waiter_terminates_a_frozen_lock_holder(
    database_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The holder prepares a statement and stops: after the idle limit a waiter ends its session and migrates."""
    ini = tree(tmp_path, "pass")
    async with holding(database_url) as holder:
        await holder.prepare("SELECT 1")
        await until_silent(database_url, holder)
        with caplog.at_level(logging.WARNING):
            waiter = assembled(database_url, ini, idle_seconds=LIMIT).coordinator()
            await asyncio.wait_for(waiter.become_ready(), FOREVER_SECONDS)
        assert holder.is_closed()
    assert "frozen_holder_ended" in [getattr(record, "event", None) for record in caplog.records]


async def test_reading_the_lock_status_terminates_no_session(database_url: str, tmp_path: Path) -> None:
    """A frozen lock holder exists: `status` reports that it executes nothing, and its session stays alive."""
    assembly = assembled(database_url, tree(tmp_path, "pass"), idle_seconds=LIMIT)
    async with holding(database_url) as holder:
        await holder.prepare("SELECT 1")
        await until_silent(database_url, holder)
        session = assembly.session("reading")
        await session.open()
        seen = await session.lock_status()
        await session.close()
        assert await holder.fetchval("SELECT 1") == 1
    assert seen.holder is not None
    assert seen.statement is None


async def test_a_slow_copy_is_not_taken_for_a_frozen_holder(database_url: str, tmp_path: Path) -> None:
    """The lock holder sends rows of a COPY slowly: the session counts as working and the COPY finishes."""
    await fetch(database_url, "CREATE TABLE t (a text)")
    go_on = asyncio.Event()

    async def rows() -> AsyncIterator[bytes]:
        yield b"first\n"
        await go_on.wait()
        yield b"second\n"

    assembly = assembled(database_url, tree(tmp_path, "pass"), idle_seconds=LIMIT)
    async with holding(database_url) as holder:
        copying = asyncio.create_task(holder.copy_to_table("t", source=rows()))
        await until_silent(database_url, holder)
        session = assembly.session()
        await session.open()
        seen = await session.lock_status()
        await session.close()
        go_on.set()
        assert await asyncio.wait_for(copying, FOREVER_SECONDS) == "COPY 2"
    assert seen.silent_seconds is None
