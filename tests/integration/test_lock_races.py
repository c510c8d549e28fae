"""The lock against other sessions, cancellations, exceptions, and the isolation level of a role."""

import asyncio
import logging
import random
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from api.migrations.assembly import Assembly
from api.migrations.core.lock_key import LockKey
from api.migrations.core.protocols import MigrationRequest, OperatorSession
from api.migrations.core.reporter import ProgressReporter
from api.migrations.core.status import Phase, Tracker
from api.migrations.errors import DatabaseUnreachable, MigrationError
from tests.support.fakes import FOREVER_SECONDS, STOP, THREE_LINES, assembled, barrier, eventually, tree
from tests.support.servers import Server, fetch

log = logging.getLogger(__name__)

HEAD = MigrationRequest("upgrade", "head")
KEY = LockKey.derive("fastapi", "alembic_version", None)
HERE = "database = (SELECT oid FROM pg_database WHERE datname = current_database())"
NO_LOCK = f"SELECT count(*) = 0 FROM pg_locks WHERE locktype = 'advisory' AND {HERE}"
OURS = "FROM pg_stat_activity WHERE application_name LIKE 'migrations:%' AND datname = current_database()"
NO_SESSION = f"SELECT count(*) = 0 {OURS}"
STOPS = f'op.execute("CREATE TABLE u (a int)")\nop.execute("{STOP}")'
TRIES, AT_ONCE, SEED = 1_500, 10, 4242


async def assert_nothing_left(url: str) -> None:
    """Assert that, within a moment, no session and no lock is left."""
    await eventually(url, NO_SESSION, "every session gone")
    await eventually(url, NO_LOCK, "no lock left")


async def test_another_session_cannot_release_the_lock(database_url: str, tmp_path: Path) -> None:
    """Another session calls each unlock function: it gets false, and the lock holder finishes both revisions."""
    session = assembled(database_url, tree(tmp_path, STOPS, 'op.execute("CREATE TABLE v (a int)")')).session()
    await session.open()
    assert await session.try_lock()
    async with barrier(database_url) as reached:
        run = asyncio.create_task(session.run(HEAD, ProgressReporter(Tracker())))
        await reached()
        await fetch(database_url, "SELECT pg_advisory_unlock_all()")
        for function in ("pg_advisory_unlock", "pg_advisory_unlock_shared"):
            assert [tuple(row) for row in await fetch(database_url, f"SELECT {function}({KEY.value})")] == [(False,)]
        ((taken,),) = await fetch(database_url, f"SELECT pg_try_advisory_lock({KEY.value})")
        assert taken is False
    await asyncio.wait_for(run, FOREVER_SECONDS)
    await session.unlock()
    await session.close()
    rows = await fetch(database_url, "SELECT revision, outcome FROM alembic_version_history ORDER BY id")
    assert [tuple(row) for row in rows] == [("r1", "applied"), ("r2", "applied")]


async def attempt_lock(session: OperatorSession, seconds: float) -> str:
    """Connect and try the lock, cancelled after `seconds`; close the session, and return the outcome."""
    try:
        async with asyncio.timeout(seconds):
            await session.open()
            return "granted" if await session.try_lock() else "refused"
    except TimeoutError:
        return "cancelled"
    finally:
        await session.close()


async def test_a_cancelled_attempt_leaves_no_lock_or_session(database_url: str, tmp_path: Path) -> None:
    """1,500 attempts are cancelled while they connect or acquire the lock: no lock and no session is left."""
    # one lock for each instance, so that every attempt acquires it unless it is cancelled first
    ini = tree(tmp_path, "pass")
    fleet = [assembled(database_url, ini, lock_name=f"lock-{number}") for number in range(AT_ONCE)]
    chance, ended = random.Random(SEED), {"granted": 0, "refused": 0, "cancelled": 0}
    began = time.monotonic()

    async def worker(assembly: Assembly) -> None:
        takes = 0.1
        for _ in range(TRIES // AT_ONCE):
            end = await attempt_lock(assembly.session(), chance.uniform(0, takes))
            ended[end] += 1
            # keeps about half of the attempts successful on any machine
            takes *= 1.1 if end == "cancelled" else 0.9

    await asyncio.gather(*map(worker, fleet))
    log.info("%d tries in %.1f s: %s", TRIES, time.monotonic() - began, ended)
    assert sum(ended.values()) == TRIES
    assert min(ended["cancelled"], ended["granted"]) > TRIES / 100
    await assert_nothing_left(database_url)


RAISES = {
    "env.py before it took the connection": ("raise RuntimeError('boom')\n" + THREE_LINES, "pass"),
    "env.py after the revisions": (THREE_LINES + "\nraise RuntimeError('boom')\n", "pass"),
    "env.py's own callback": (
        THREE_LINES.replace(
            "run_env()", "def boom(**_):\n    raise RuntimeError('boom')\n\nrun_env(on_version_apply=boom)"
        ),
        "pass",
    ),
    "a revision": (THREE_LINES, "raise RuntimeError('boom')"),
    "a revision that ends the process": (THREE_LINES, "raise SystemExit(0)"),
    "a revision that nobody cancelled": (THREE_LINES, "import asyncio\nraise asyncio.CancelledError"),
    "env.py that nobody cancelled": ("import asyncio\n" + THREE_LINES + "\nraise asyncio.CancelledError\n", "pass"),
    "a revision that closes its connection": (THREE_LINES, "op.get_bind().close()\nraise RuntimeError('boom')"),
    "a revision in an autocommit block": (
        THREE_LINES,
        "with op.get_context().autocommit_block():\n    raise RuntimeError('boom')",
    ),
    "a statement": (THREE_LINES, 'op.execute("SELECT 1 / 0")'),
    "a commit": (
        THREE_LINES,
        'op.execute("CREATE TABLE p (a int UNIQUE DEFERRABLE INITIALLY DEFERRED)")\n'
        'op.execute("INSERT INTO p VALUES (1), (1)")',
    ),
}


@pytest.mark.parametrize(("env", "body"), RAISES.values(), ids=RAISES)
async def test_an_exception_in_any_place_leaves_no_lock(database_url: str, tmp_path: Path, env: str, body: str) -> None:
    """env.py, a revision, a statement or COMMIT raises: the instance fails, and no lock or session is left."""
    assembly = assembled(database_url, tree(tmp_path, body, env=env))
    with pytest.raises(MigrationError) as raised:
        await assembly.coordinator().become_ready()
    assert not isinstance(raised.value, DatabaseUnreachable)
    assert assembly.tracker.status.phase is Phase.FAILED
    await assert_nothing_left(database_url)


@pytest.fixture(params=["read committed", "repeatable read", "serializable"])
def isolated_url(server: Server, database_url: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """Yield the URL of a role with each default isolation level in turn."""
    name = urlsplit(database_url).path[1:]
    server.execute(f"CREATE ROLE {name} LOGIN SUPERUSER PASSWORD 'p'")
    server.execute(f"ALTER ROLE {name} SET default_transaction_isolation = '{request.param}'")
    yield server.url(name, user=name, password="p")
    server.execute(f"DROP OWNED BY {name} CASCADE", database=name)
    server.execute(f"DROP ROLE {name}")


async def test_waiters_read_the_new_schema_at_any_isolation_level(
    isolated_url: str, database_url: str, tmp_path: Path
) -> None:
    """At any isolation level waiters queue for no lock, hold no snapshot, and find head once the holder is done."""
    ini = tree(tmp_path, STOPS, 'op.execute("CREATE TABLE v (a int)")')
    fleet = [assembled(isolated_url, ini, f"w{number}", poll_seconds=0.05) for number in range(4)]
    waiting = f"{OURS} AND application_name LIKE '%:waiting:%'"
    async with barrier(database_url) as reached, asyncio.timeout(FOREVER_SECONDS):
        ready = asyncio.gather(*(assembly.coordinator().become_ready() for assembly in fleet))
        await reached()
        await eventually(database_url, f"SELECT count(*) = 3 {waiting}", "three that wait")
        for _ in range(20):
            queued = f"SELECT count(*) FROM pg_locks WHERE NOT granted AND pid IN (SELECT pid {waiting})"
            assert [tuple(row) for row in await fetch(database_url, queued)] == [(0,)]
            rows = await fetch(database_url, f"SELECT DISTINCT backend_xmin {waiting} AND state <> 'active'")
            assert [tuple(row) for row in rows] in ([], [(None,)])
    await asyncio.wait_for(ready, FOREVER_SECONDS)
    assert {assembly.tracker.status.phase for assembly in fleet} == {Phase.READY}
    rows = await fetch(database_url, "SELECT revision, outcome FROM alembic_version_history ORDER BY id")
    assert [tuple(row) for row in rows] == [("r1", "applied"), ("r2", "applied")]
    await assert_nothing_left(database_url)
