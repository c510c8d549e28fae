"""Waiters are killed or stopped: the lock is never granted to a process that cannot use it."""

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest

from api.migrations.core.lock_key import LockKey
from tests.support import evidence, project
from tests.support.fleet import MARK, fleet, until_all_ready, until_phase
from tests.support.servers import fetch

pytestmark = pytest.mark.acceptance

KEY = LockKey.derive("fastapi", "alembic_version", None)
LOOKS = 20
QUEUED = "SELECT pid, granted FROM pg_locks WHERE locktype = 'advisory'"


@asynccontextmanager
async def held_by_hand(url: str) -> AsyncIterator[asyncpg.Connection]:
    """Hold the lock in a session of its own, as a person does in psql."""
    connection = await asyncpg.connect(url)
    try:
        assert await connection.fetchval("SELECT pg_try_advisory_lock($1)", KEY.value)
        yield connection
    finally:
        await connection.close()


async def test_a_killed_or_stopped_waiter_is_never_granted_the_lock(ledger_url: str, tmp_path: Path) -> None:
    """One waiter is killed and one stopped: the released lock stays free until a live instance acquires it."""
    ini = project.make_history(tmp_path, project.quick())
    queued = f"{QUEUED} AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    async with held_by_hand(ledger_url) as holder:
        with fleet(2, ledger_url, ini=ini) as (dead, stopped):
            until_phase([dead, stopped], "waiting")
            dead.kill(signal.SIGKILL)
            stopped.kill(signal.SIGSTOP)
            dead.wait()
            for _ in range(LOOKS):
                rows = await fetch(ledger_url, queued)
                assert [tuple(row) for row in rows] == [(holder.get_server_pid(), True)], "nobody queues for it"
            await holder.close()
            for _ in range(LOOKS):
                assert await fetch(ledger_url, queued) == [], "nobody was given it"
            with fleet(1, ledger_url, ini=ini, first=3) as (live,):
                until_all_ready([live])
                assert live.log().count(MARK) == 1
            stopped.kill(signal.SIGCONT)
            until_all_ready([stopped])
            assert MARK not in stopped.log()
    rows = [(row["outcome"], row["instance"]) for row in evidence.history(ledger_url, extra_only=True)]
    assert rows == [("applied", "api-3")]
    assert evidence.advisory_locks(ledger_url) == 0
