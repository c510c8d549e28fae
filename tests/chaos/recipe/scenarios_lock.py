"""The lock is lost, kept too long, shared or queued for."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

import asyncpg

from tests.chaos.lab import Lab
from tests.chaos.recipe.crew import Crew, at_work, dead, holder_and_peer, holders, most, state, until, waiting, within
from tests.chaos.recipe.instance import LOCK, UNLOCK
from tests.chaos.recipe.scenario import scenario
from tests.chaos.recipe.trees import BATCHES, ENV_WITH_THE_LOCK, TABLE, long, tree
from tests.support.fakes import in_the_way
from tests.support.pooler import running_pgbouncer
from tests.support.servers import fetch_sync

SOON_SECONDS = 8.0


@scenario("14", "PgBouncer in transaction mode, 3 instances, a backfill in batches")
def pooler(lab: Lab, crew: Crew) -> str:
    """The lock belongs to a session of the pool, which all clients share."""
    _at_r0(crew)
    ini = tree(crew.folder / "tree", TABLE, BATCHES)
    with running_pgbouncer(lab.server) as pooler:
        url = pooler.url(urlsplit(crew.url).path.lstrip("/"))
        members = [crew.start(ini, "--pooled", url=url)]
        until(lambda: _writers(crew.url) == 1, "one at work")
        members += [crew.start(ini, "--pooled", url=url) for _ in range(2)]
        inside = most(SOON_SECONDS, lambda: _writers(crew.url), 3)
        for member in members:
            member.kill()
        within(SOON_SECONDS, lambda: waiting(crew.url) == 0)
        left = len(holders(crew.url))
        after = crew.start(ini).code(SOON_SECONDS)
    then = "a direct one waits for ever" if after is None else f"a direct one ends with {after}"
    return f"{inside} of 3 run it at once; all killed: the pool keeps {left} lock(s), {then}"


def _writers(url: str) -> int:
    return len(fetch_sync(url, "SELECT DISTINCT a FROM t"))


def _at_r0(crew: Crew) -> None:
    assert crew.start(tree(crew.folder / "before", TABLE)).code() == 0


@scenario("17", "the connection of the lock is lost, the lock beside")
def lock_connection_lost(_: Lab, crew: Crew) -> str:
    """The connection of the lock is lost: the revisions continue on the other connection."""
    holder_and_peer(crew, TABLE, long(6), lock="beside")
    (pid,) = holders(crew.url)
    fetch_sync(crew.url, "SELECT pg_terminate_backend($1)", pid)
    return f"{most(SOON_SECONDS, lambda: at_work(crew.url), 2)} migrators inside the same statement at once"


@scenario("18", "pg_terminate_backend of the one that migrates, 1 peer")
def terminated(_: Lab, crew: Crew) -> str:
    """The terminated instance does not retry, and the peer continues."""
    both = holder_and_peer(crew, TABLE, long(2))
    (pid,) = holders(crew.url)
    fetch_sync(crew.url, "SELECT pg_terminate_backend($1)", pid)
    return f"{dead(both)} of 2 dead, the peer goes on: {state(crew.url)}"


@scenario("18", "pg_cancel_backend of the one that migrates, 1 peer")
def cancelled(_: Lab, crew: Crew) -> str:
    """The cancelled instance fails, and the peer runs the same revision."""
    _one, peer = holder_and_peer(crew, TABLE, long(3))
    (pid,) = holders(crew.url)
    fetch_sync(crew.url, "SELECT pg_cancel_backend($1)", pid)
    again = within(SOON_SECONDS, lambda: at_work(crew.url) == 1 and pid not in holders(crew.url))
    return f"the peer runs it again after {again or SOON_SECONDS:.1f} s, and ends with {peer.code()}: {state(crew.url)}"


@scenario("20", "a revision drops the lock (DISCARD ALL, pg_advisory_unlock_all)")
def dropped_by_a_revision(_: Lab, crew: Crew) -> str:
    """A revision releases the lock, and the instance does not check it."""
    ini = tree(crew.folder / "tree", TABLE, 'op.execute("SELECT pg_advisory_unlock_all()")\n' + long(6))
    crew.start(ini)
    until(lambda: at_work(crew.url) == 1, "one at work")
    crew.start(ini)
    return f"{most(SOON_SECONDS, lambda: at_work(crew.url), 2)} migrators inside the same statement at once"


@scenario("20", "pg_advisory_xact_lock() in env.py, and a revision with an autocommit_block(), 6 instances")
def ended_by_a_block(_: Lab, crew: Crew) -> str:
    """An autocommit block commits the transaction and so releases its lock."""
    _at_r0(crew)
    body = f"with op.get_context().autocommit_block():\n    {long(3)}"
    ini = tree(crew.folder / "tree", TABLE, body, env=ENV_WITH_THE_LOCK)
    crew.start(ini, "--lock", "none", "--crowd", "6")
    return f"{most(SOON_SECONDS, lambda: at_work(crew.url), 6)} of 6 inside the block at once"


@scenario("21", "asyncio.wait_for() around pg_advisory_lock(), 200 times, the lock given back meanwhile")
def timeout_and_grant(_: Lab, crew: Crew) -> str:
    """The client times out at the moment when the server grants the lock."""
    return asyncio.run(_race(crew.url, 200))


async def _race(url: str, times: int) -> str:
    gave_up = stranded = 0
    holder, other = await asyncpg.connect(url), await asyncpg.connect(url)
    for _ in range(times):
        await holder.execute(LOCK)
        later = asyncio.create_task(holder.execute(f"SELECT pg_sleep(0.015 + random() * 0.02); {UNLOCK}"))
        try:
            await asyncio.wait_for(other.execute(LOCK), 0.02)
        except TimeoutError:
            gave_up += 1
            stranded += await other.fetchval("SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND " + HELD)
        await later
        await other.execute("SELECT pg_advisory_unlock_all()")
    await asyncio.gather(holder.close(), other.close())
    return f"{stranded} of {gave_up} that had timed out held the lock all the same"


HELD = "locktype = 'advisory' AND granted"


@scenario("22", "a revision fails, the process logs it and serves on with its pool")
def kept_in_a_pool(_: Lab, crew: Crew) -> str:
    """A connection returns to the pool while it still holds the lock."""
    crew.start(tree(crew.folder / "broken", 'op.execute("SELECT 1/0")'), "--serve-on")
    until(lambda: bool(holders(crew.url)), "one that holds the lock")
    mended = crew.start(tree(crew.folder / "mended", TABLE))
    code = mended.code(SOON_SECONDS)
    if code is None:
        return f"the lock stays in its pool: the mended release still waits after {SOON_SECONDS:.0f} s"
    return f"the mended release ends with {code}"


@scenario("24", "the platform's idle_session_timeout of 1 s, the lock beside")
def idle_limit(_: Lab, crew: Crew) -> str:
    """The server terminates the idle connection that holds the lock."""
    name = urlsplit(crew.url).path.lstrip("/")
    fetch_sync(crew.url, f'ALTER DATABASE "{name}" SET idle_session_timeout = 1000')
    ini = tree(crew.folder / "tree", TABLE, long(6))
    members = [crew.start(ini, "--lock", "beside")]
    until(lambda: at_work(crew.url) == 1, "one at work")
    members.append(crew.start(ini, "--lock", "beside"))
    inside = most(SOON_SECONDS, lambda: at_work(crew.url), 2)
    return f"{inside} migrators inside the same statement at once, {dead(members)} of 2 dead"


@scenario("26", "two services in one database, both with key 1")
def same_key(_: Lab, crew: Crew) -> str:
    """Two services use the same short key and so share one lock."""
    crew.start(tree(crew.folder / "one", TABLE, long(6), version_table="one_version"))
    until(lambda: at_work(crew.url) == 1, "the one service at work")
    other = crew.start(tree(crew.folder / "other", 'op.execute("SELECT 1")', version_table="other_version"))
    took = within(SOON_SECONDS + 4, lambda: other.process.poll() is not None)
    return "still waits" if took is None else f"the other service waited {took:.1f} s for a lock that is not its own"


@scenario("29", "a long wait, and VACUUM")
def vacuum(_: Lab, crew: Crew) -> str:
    """An instance that is blocked in the lock function holds a snapshot, which stops VACUUM."""
    ini = tree(crew.folder / "tree", TABLE)

    async def wait_and_vacuum() -> str:
        async with in_the_way(crew.url, LOCK, "holder"):
            crew.start(ini)
            await asyncio.to_thread(until, lambda: waiting(crew.url) == 1, "one waiting")
            return await asyncio.to_thread(_vacuum, crew.url)

    return asyncio.run(wait_and_vacuum())


def _vacuum(url: str) -> str:
    for sql in ("CREATE TABLE junk AS SELECT generate_series(1, 10000)", "DELETE FROM junk", "VACUUM junk"):
        fetch_sync(url, sql)
    kept = fetch_sync(url, "SELECT n_dead_tup FROM pg_stat_user_tables WHERE relname = 'junk'")[0][0]
    pins = (
        "SELECT backend_xmin::text FROM pg_stat_activity "
        "WHERE wait_event_type = 'Lock' AND datname = current_database()"
    )
    return f"the waiter's backend_xmin is {fetch_sync(url, pins)[0][0]}: {kept} of 10000 dead rows stay"
