"""A platform gives its roles session timeouts of 1 s: the lock holder and the waiters outlive each of them."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import evidence, project
from tests.support.fakes import STOP, barrier
from tests.support.fleet import fleet, until_all_ready, until_one_migrates, until_phase
from tests.support.servers import Server, fetch_sync
from tests.support.waiting import wait_until

pytestmark = pytest.mark.acceptance

ROLE = f"hurried_{os.getpid()}"
TIMEOUTS = (
    "idle_session_timeout",
    "idle_in_transaction_session_timeout",
    "lock_timeout",
    "statement_timeout",
    "transaction_timeout",
)
LONGER = 1.5
"""Longer than every timeout, in seconds."""

IN_A_BLOCK = project.Revision(
    "in_a_block", f"with op.get_context().autocommit_block():\n    mark()\n    time.sleep({LONGER})\n    mark()"
)
FOR_A_LOCK = project.Revision("for_a_lock", f'mark()\nop.execute("{STOP}")')
WAITED = (
    f"SELECT clock_timestamp() - waitstart > '{LONGER} s' FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
)


@pytest.fixture
def hurried_url(server: Server, ledger_url: str) -> Iterator[str]:
    """Yield the database as a role whose sessions have every timeout at 1 s by default."""
    server.execute(f"CREATE ROLE {ROLE} LOGIN SUPERUSER PASSWORD 'p'")
    there = [row[0] for row in server.execute(f"SELECT name FROM pg_settings WHERE name IN {TIMEOUTS}")]
    for name in there:
        server.execute(f"ALTER ROLE {ROLE} SET {name} = '1s'")
    url = ledger_url.replace("postgres@", f"{ROLE}:p@")
    for name in there:
        assert fetch_sync(url, f"SHOW {name}")[0][0] == "1s"
    yield url
    server.execute(f"DROP OWNED BY {ROLE} CASCADE", database=ledger_url.rpartition("/")[2])
    server.execute(f"DROP ROLE {ROLE}")


def waiting_session(url: str) -> list[tuple[object, ...]]:
    """Return the pids of the waiting sessions."""
    sql = "SELECT pid FROM pg_stat_activity WHERE application_name LIKE '%:waiting:%' AND datname = current_database()"
    return [tuple(row) for row in fetch_sync(url, sql)]


async def test_a_migration_outlives_timeouts_of_one_second(hurried_url: str, ledger_url: str, tmp_path: Path) -> None:
    """Statement, Python code, lock queue and waiter each last longer than the timeouts: no session is lost."""
    long = project.slow("statement", LONGER), project.sleeper("in_python", LONGER), IN_A_BLOCK, FOR_A_LOCK
    ini = project.make_history(tmp_path, *long, project.quick("last"))
    with fleet(2, hurried_url, ini=ini, MIGRATION_LOCK_TIMEOUT_SECONDS="0", MIGRATION_POLL_SECONDS="20") as instances:
        async with barrier(ledger_url) as reached:
            migrator = until_one_migrates(instances)
            until_phase([instance for instance in instances if instance is not migrator], "waiting")
            waiting = waiting_session(ledger_url)
            assert len(waiting) == 1
            await reached()
            wait_until(lambda: any(row[0] for row in fetch_sync(ledger_url, WAITED)), "a long wait", seconds=30)
            assert waiting_session(ledger_url) == waiting, "it is still the first one"
        until_all_ready(instances)
        assert not any("Waiting for the database" in instance.log() for instance in instances)
    rows = [(row["revision"], row["outcome"], row["instance"]) for row in evidence.history(ledger_url, extra_only=True)]
    assert rows == [(each.id, "applied", migrator.name) for each in (*long, project.quick("last"))]
