"""Another session blocks a revision's table lock: it is named, readers are served, and the revision is retried."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.support import evidence, project
from tests.support.fakes import eventually, in_the_way
from tests.support.fleet import (
    MARK,
    Instance,
    finish,
    fleet,
    migrate,
    start_migrate,
    until_all_ready,
    until_one_migrates,
    until_phase,
)
from tests.support.pace import scaled
from tests.support.project import Revision
from tests.support.servers import fetch
from tests.support.waiting import wait_until

pytestmark = pytest.mark.acceptance

log = logging.getLogger(__name__)

NAME = "nightly-report"
SHORT = f"{scaled(6):g}"
ALTER = 'op.execute("ALTER TABLE accounts ADD COLUMN note text")'
CONTENDED = Revision("contended", f"mark()\n{ALTER}")
NEXT = Revision("next", "op.execute(\"CREATE TABLE shown AS SELECT current_setting('lock_timeout')\")")
LOOK = "SELECT count(*) FROM accounts"
COLUMNS = "SELECT count(*) FROM information_schema.columns WHERE table_name = 'accounts' AND column_name = 'note'"


async def read(url: str) -> int:
    """Read the table like a client that gives up after 60 s."""
    connection = await asyncpg.connect(url, server_settings={"statement_timeout": "60s"})
    try:
        count: int = await connection.fetchval("SELECT count(*) FROM accounts")
        return count
    finally:
        await connection.close()


@asynccontextmanager
async def read_all_the_time(url: str) -> AsyncIterator[list[float]]:
    """Read the table again and again; yield how many seconds each read took."""
    took: list[float] = []

    async def read_on() -> None:
        while True:
            began = time.monotonic()
            await read(url)
            took.append(time.monotonic() - began)

    task = asyncio.create_task(read_on())
    try:
        yield took
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def until_retried(url: str, revision: str, times: int) -> None:
    """Wait until that many attempts have been rolled back for a retry."""

    def enough() -> bool:
        return evidence.outcomes(url, revision).count("retried") >= times

    wait_until(enough, f"{times} attempts at {revision}", seconds=60)


def until_blocked(instance: Instance) -> dict[str, Any]:
    """Wait until the health of the migrating instance names a blocking session, and return that entry."""
    seen: list[dict[str, Any]] = []

    def look() -> bool:
        seen[:] = instance.health().get("blocked_by", [])
        return bool(seen)

    wait_until(look, f"{instance!r} says who is in the way", seconds=60)
    assert len(seen) == 1
    return seen[0]


async def test_a_blocked_revision_names_its_blocker_and_lets_readers_pass(ledger_url: str, tmp_path: Path) -> None:
    """Another session blocks a table: health names it, reads succeed between attempts, then the revision is applied."""
    ini = project.make_history(tmp_path, CONTENDED)
    async with in_the_way(ledger_url, LOOK, NAME) as blocker:
        with fleet(3, ledger_url, ini=ini) as instances:
            migrator = until_one_migrates(instances)
            blocked = until_blocked(migrator)
            assert (blocked["pid"], blocked["application"]) == (blocker.get_server_pid(), NAME)
            assert (blocked["state"], blocked["seconds"] > 0) == ("idle in transaction", True)
            assert (blocked["relation"], blocked["mode"]) == ("accounts", "AccessExclusiveLock")
            for times in (1, 2, 3):
                until_retried(ledger_url, CONTENDED.id, times)
                assert await read(ledger_url) == 0
            said = "contended did not acquire its table lock"
            migrator.until(lambda: said in migrator.message(), "says what it waits for")
            assert blocker.is_in_transaction(), "all that happened while it was in the way"
            await blocker.close()
            until_all_ready(instances)
            assert (migrator.health()["blocked_by"], migrator.health()["message"]) == ([], None)
            assert sum(instance.log().count(MARK) for instance in instances) == 1
    *tries, last = evidence.history(ledger_url, extra_only=True)
    assert {row["outcome"] for row in tries} == {"retried"}
    assert all("55P03" in row["error"] for row in tries)
    assert (last["outcome"], evidence.marks(ledger_url)) == ("applied", [CONTENDED.id])
    assert evidence.appliers(ledger_url) >= {migrator.name}


async def test_readers_are_served_between_two_attempts(ledger_url: str, tmp_path: Path) -> None:
    """While another session blocks the revision, a reader is served again and again; its longest stall is logged."""
    ini = project.make_history(tmp_path, CONTENDED)
    async with in_the_way(ledger_url, LOOK, NAME) as blocker, read_all_the_time(ledger_url) as took:
        with start_migrate("upgrade", url=ledger_url, ini=ini) as upgrade:
            await asyncio.to_thread(until_retried, ledger_url, CONTENDED.id, 4)
            while_barred = len(took)
            await blocker.close()
            code, output = await asyncio.to_thread(finish, upgrade)
    assert code == 0, output
    assert while_barred > 4, "the tries leave room for readers in between"
    tries = evidence.outcomes(ledger_url, CONTENDED.id)
    log.info("longest stall of a reader %.2f s in %d reads, %d tries", max(took), len(took), len(tries))
    assert (set(tries[:-1]), tries[-1]) == ({"retried"}, "applied")


async def test_a_run_reports_what_it_applied_before_a_blocked_revision(ledger_url: str, tmp_path: Path) -> None:
    """The second of two revisions is blocked and retried: the run reports both, and the first one ran once."""
    ini = project.make_history(tmp_path, project.quick(), CONTENDED)
    async with in_the_way(ledger_url, LOOK, NAME) as blocker:
        with fleet(1, ledger_url, ini=ini) as instances:
            until_retried(ledger_url, CONTENDED.id, 2)
            progress = instances[0].health()["progress"]
            assert (progress["applied"], progress["total"]) == (1, 2)
            await blocker.close()
            until_all_ready(instances)
            assert instances[0].health()["last_run"]["applied"] == ["quick", CONTENDED.id]
    assert evidence.outcomes(ledger_url, "quick") == ["applied"]


async def test_a_deadlock_is_retried(ledger_url: str, tmp_path: Path) -> None:
    """A revision deadlocks with another session: the server rolls the revision back, and the retry succeeds."""
    body = f"""mark()
op.execute("LOCK TABLE accounts")
{project.WAIT_FOR_THE_TEST}
op.execute("ALTER TABLE transactions ADD COLUMN note text")"""
    ini = project.make_history(tmp_path, Revision("deadlocked", body))
    async with in_the_way(ledger_url, "SELECT count(*) FROM transactions", NAME) as other:
        # the session whose check comes first is the victim
        await other.execute("SET deadlock_timeout = '600s'")
        with fleet(2, ledger_url, ini=ini, MIGRATION_LOCK_TIMEOUT_SECONDS="0") as instances:
            until_one_migrates(instances)
            granted = "SELECT count(*) FROM pg_locks WHERE relation = 'accounts'::regclass AND {}"
            exclusive = granted.format("granted AND mode = 'AccessExclusiveLock'")
            await eventually(ledger_url, exclusive, "the revision's first lock")
            reading = asyncio.create_task(other.execute("SELECT count(*) FROM accounts"))
            await eventually(ledger_url, granted.format("NOT granted"), "the other session behind it")
            evidence.let_go(ledger_url)
            await reading
            await other.execute("COMMIT")
            until_all_ready(instances)
    rows = evidence.history(ledger_url, extra_only=True)
    assert [row["outcome"] for row in rows] == ["retried", "applied"]
    assert "40P01" in rows[0]["error"]
    assert evidence.marks(ledger_url) == ["deadlocked"]


async def test_a_half_applied_revision_is_not_retried(ledger_url: str, tmp_path: Path) -> None:
    """A lock times out after an autocommit_block: one attempt, a dirty schema, and no retry by the next start."""
    body = f"with op.get_context().autocommit_block():\n    mark()\n{ALTER}"
    ini = project.make_history(tmp_path, Revision("halfway", body))
    async with in_the_way(ledger_url, LOOK, NAME):
        with fleet(2, ledger_url, ini=ini, MIGRATION_ON_FAILURE="hold") as instances:
            until_phase(instances, "failed")
            assert all("revision halfway" in instance.health()["message"] for instance in instances)
            assert all("committed a part of its work" in instance.health()["message"] for instance in instances)
    with fleet(1, ledger_url, ini=ini, MIGRATION_ON_FAILURE="hold") as instances:
        until_phase(instances, "failed")
        assert instances[0].health()["state"] == "dirty"
    rows = evidence.history(ledger_url, extra_only=True)
    assert [row["outcome"] for row in rows] == ["half_applied"]
    assert "55P03" in rows[0]["error"]
    assert evidence.marks(ledger_url) == ["halfway"]


async def test_the_run_budget_ends_the_retries(ledger_url: str, tmp_path: Path) -> None:
    """The table stays blocked past MIGRATION_RUN_SECONDS: both instances fail and name the blocking session."""
    ini = project.make_history(tmp_path, CONTENDED)
    async with in_the_way(ledger_url, LOOK, NAME) as blocker:
        with fleet(2, ledger_url, ini=ini, MIGRATION_ON_FAILURE="hold", MIGRATION_RUN_SECONDS=SHORT) as instances:
            until_phase(instances, "failed")
            for message in (instance.health()["message"] for instance in instances):
                assert f"MIGRATION_RUN_SECONDS={SHORT}" in message
                assert f"pid {blocker.get_server_pid()} ({NAME}, " in message
            assert sum(instance.log().count(MARK) for instance in instances) == 1
    *tries, last = evidence.outcomes(ledger_url, CONTENDED.id)
    assert (set(tries), last) == ({"retried"}, "failed")
    assert evidence.versions(ledger_url) == [project.head()]
    wait_until(lambda: evidence.advisory_locks(ledger_url) == 0, "a free lock", seconds=30)


async def test_a_relative_target_is_not_retried(ledger_url: str, tmp_path: Path) -> None:
    """`upgrade +2` applies one revision and the second is blocked: it fails, because a retry would apply a third."""
    ini = project.make_history(tmp_path, project.quick(), CONTENDED, NEXT)
    async with in_the_way(ledger_url, LOOK, NAME):
        code, output = migrate("upgrade", "+2", url=ledger_url, ini=ini)
    assert code == 1, output
    assert "it already committed quick, and the relative target +2 counts from the current revision" in output
    assert evidence.versions(ledger_url) == ["quick"]
    assert evidence.outcomes(ledger_url, CONTENDED.id) == ["retried"]
    assert evidence.advisory_locks(ledger_url) == 0


async def test_the_command_prints_the_blocking_session(ledger_url: str, tmp_path: Path) -> None:
    """A blocked `upgrade` prints the blocking session and then succeeds; the next revision starts with 300 ms again."""
    ini = project.make_history(tmp_path, CONTENDED, NEXT)
    async with in_the_way(ledger_url, LOOK, NAME) as blocker:
        pid = blocker.get_server_pid()
        with start_migrate("upgrade", url=ledger_url, ini=ini) as upgrade:
            until_retried(ledger_url, CONTENDED.id, 3)
            await blocker.close()
            code, output = finish(upgrade)
    assert code == 0, output
    who = f"pid {pid} ({NAME}, user postgres, idle in transaction for"
    assert who in output
    assert "blocked AccessExclusiveLock on accounts; retry in" in output
    assert evidence.outcomes(ledger_url, CONTENDED.id)[-1] == "applied"
    assert [tuple(row) for row in await fetch(ledger_url, "SELECT * FROM shown")] == [("300ms",)]
