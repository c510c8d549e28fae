"""The lock holder is stopped, terminated, cancelled or killed: one successor, and no revision is applied twice."""

import asyncio
import logging
import signal
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import pytest

from api.migrations.core.lock_key import LockKey
from api.migrations.lock_manager import application_name
from tests.acceptance import holders
from tests.support import evidence, project
from tests.support.fleet import MARK, Instance, fleet, until_all_ready, until_one_migrates, until_phase
from tests.support.pace import scaled
from tests.support.servers import fetch_sync
from tests.support.waiting import FOREVER_SECONDS, wait_until

pytestmark = pytest.mark.acceptance

log = logging.getLogger(__name__)

KEY = LockKey.derive("fastapi", "alembic_version", None)
GHOST = application_name(KEY, "migrating", "ghost")


def until_outcomes(url: str, revision: str, *expected: str) -> None:
    """Wait until the attempts at `revision` have these outcomes."""
    wait_until(lambda: evidence.outcomes(url, revision) == [*expected], f"{revision} {expected}", seconds=60)


def holder_of(url: str, revision: str, instances: Sequence[Instance]) -> Instance:
    """Return the instance that the history names for the newest attempt at `revision`."""
    names = [row["instance"] for row in evidence.history(url) if row["revision"] == revision]
    return next(instance for instance in instances if instance.name == names[-1])


def assert_taken_over(url: str, ini: Path, revision: str) -> None:
    """Assert that `revision` was attempted twice, each revision was applied once, and no lock is left."""
    assert evidence.outcomes(url, revision) == ["interrupted", "applied"]
    assert evidence.applied(url) == project.revisions(ini)
    assert evidence.versions(url) == [project.head(ini)]
    assert evidence.marks(url) == sorted(row["revision"] for row in evidence.history(url, extra_only=True)[1:])
    assert evidence.advisory_locks(url) == 0


def appliers_before(url: str) -> set[str]:
    """Return the instances that applied the project's own revisions."""
    rows = evidence.history(url)
    return {row["instance"] for row in rows if row["revision"] in project.revisions() and row["outcome"] == "applied"}


@pytest.mark.parametrize("wakes", ["beside its successor", "when all is done"])
def test_a_stopped_lock_holder_loses_the_lock(ledger_url: str, tmp_path: Path, wakes: str) -> None:
    """After SIGSTOP the server ends the holder's session and a waiter finishes; once awake the holder runs nothing."""
    ini = project.make_history(tmp_path, project.held(), project.quick())
    with fleet(3, ledger_url, ini=ini, MIGRATION_IDLE_SECONDS=f"{scaled(2):g}") as instances:
        until_outcomes(ledger_url, "held", "running")
        first = holder_of(ledger_url, "held", instances)
        first.kill(signal.SIGSTOP)
        stopped = time.monotonic()
        until_outcomes(ledger_url, "held", "interrupted", "running")
        log.info("taken over %.1f s after SIGSTOP, with %g s to idle", time.monotonic() - stopped, scaled(2))
        others = [instance for instance in instances if instance is not first]
        second = holder_of(ledger_url, "held", instances)
        assert second in others
        if wakes == "beside its successor":
            first.kill(signal.SIGCONT)
            until_phase([first], "waiting")
            assert evidence.outcomes(ledger_url, "held") == ["interrupted", "running"]
        evidence.let_go(ledger_url)
        until_all_ready(others)
        first.kill(signal.SIGCONT)
        until_all_ready(instances)
        assert first.log().count(MARK) == 1
    assert evidence.appliers(ledger_url) == {*appliers_before(ledger_url), second.name}
    assert_taken_over(ledger_url, ini, "held")


def test_a_terminated_lock_holder_is_replaced(ledger_url: str, tmp_path: Path) -> None:
    """pg_terminate_backend during a revision: one instance, perhaps the same one, runs it again and finishes."""
    ini = project.make_history(tmp_path, project.held(), project.quick())
    with fleet(3, ledger_url, ini=ini) as instances:
        until_outcomes(ledger_url, "held", "running")
        holders.signal_holder(ledger_url, "pg_terminate_backend")
        ended = time.monotonic()
        until_outcomes(ledger_url, "held", "interrupted", "running")
        log.info("taken over %.1f s after pg_terminate_backend", time.monotonic() - ended)
        evidence.let_go(ledger_url)
        until_all_ready(instances)
    assert_taken_over(ledger_url, ini, "held")


def test_a_lock_holder_terminated_in_an_autocommit_block_is_replaced(ledger_url: str, tmp_path: Path) -> None:
    """pg_terminate_backend in an idempotent autocommit_block is a lost connection: the revision is run again."""
    body = f"""
        with op.get_context().autocommit_block():
            if not op.get_bind().scalar({project.GATE}):
                op.execute("SELECT pg_sleep(300)")
            mark()
    """
    block = project.Revision("block", body, header="idempotent = True")
    ini = project.make_history(tmp_path, block, project.quick())
    with fleet(2, ledger_url, ini=ini) as instances:
        wait_until(lambda: evidence.executing(ledger_url, "pg_sleep(300)"), "one in the block", seconds=60)
        evidence.let_go(ledger_url)
        holders.signal_holder(ledger_url, "pg_terminate_backend")
        until_all_ready(instances)
    assert_taken_over(ledger_url, ini, "block")


def test_a_cancelled_statement_is_a_failed_migration(ledger_url: str, tmp_path: Path) -> None:
    """pg_cancel_backend: the revision is recorded as failed, the lock is free, and the waiters do not retry it."""
    ini = project.make_history(tmp_path, holders.in_the_server())
    with fleet(3, ledger_url, ini=ini, MIGRATION_ON_FAILURE="hold") as instances:
        migrator = until_one_migrates(instances)
        until_phase([instance for instance in instances if instance is not migrator], "waiting")
        wait_until(lambda: evidence.executing(ledger_url, "pg_sleep(300)"), "the long statement", seconds=60)
        holders.signal_holder(ledger_url, "pg_cancel_backend")
        until_phase(instances, "failed")
        for instance in instances:
            assert "SQLSTATE 57014" in instance.health()["message"]
            assert instance.get("/health/live").status_code == 200
        assert sum(instance.log().count(MARK) for instance in instances) == 1
        assert evidence.advisory_locks(ledger_url) == 0
    assert evidence.outcomes(ledger_url, "in_the_server") == ["failed"]
    assert "SQLSTATE 57014" in evidence.history(ledger_url, extra_only=True)[0]["error"]
    assert evidence.marks(ledger_url) == []
    assert evidence.versions(ledger_url) == [project.head()]


@contextmanager
def orphan(url: str) -> Iterator[Future[str]]:
    """Run a migrating session without the lock until it is terminated or `evidence.let_go`; yield its fate."""
    gate = "EXISTS (SELECT FROM pg_class WHERE relname = $$let_go$$)"
    work = f"DO 'BEGIN WHILE NOT {gate} LOOP PERFORM pg_sleep(0.05); END LOOP; END'"

    async def main() -> str:
        connection = await asyncpg.connect(url, server_settings={"application_name": GHOST})
        try:
            await connection.execute(work)
        except (asyncpg.PostgresError, asyncpg.InterfaceError):
            return "ended"
        finally:
            connection.terminate()
        return "finished"

    with ThreadPoolExecutor(1) as pool:
        fate = pool.submit(asyncio.run, main())
        try:
            yield fate
        finally:
            fetch_sync(url, "CREATE TABLE IF NOT EXISTS let_go ()")


@pytest.mark.parametrize("expected", ["ended", "finished"])
def test_a_new_lock_holder_waits_for_an_orphaned_session(ledger_url: str, tmp_path: Path, expected: str) -> None:
    """A session migrates without the lock: the new holder waits for it or terminates it, and only then starts."""
    ini = project.make_history(tmp_path, holders.watched())
    with orphan(ledger_url) as fate:
        wait_until(lambda: evidence.executing(ledger_url, "let_go"), "an orphan at work", seconds=30)
        with fleet(1, ledger_url, ini=ini) as (instance,):
            wait_until(lambda: evidence.advisory_locks(ledger_url) == 1, "a new holder", seconds=60)
            held = time.monotonic()
            if expected == "finished":
                evidence.let_go(ledger_url)
            until_all_ready([instance])
            log.info("ready %.1f s after it got the lock; the orphan %s", time.monotonic() - held, expected)
            assert ("they migrate without holding the lock" in instance.log()) is (expected == "ended")
        assert fate.result(FOREVER_SECONDS) == expected
    assert evidence.marks(ledger_url) == ["watched"], "another mark says that it ran beside the orphan"
    assert evidence.outcomes(ledger_url, "watched") == ["applied"]


def test_a_long_statement_of_a_killed_lock_holder_ends_first(ledger_url: str, tmp_path: Path) -> None:
    """SIGKILL during a long statement: the server ends the statement, and two sessions never migrate at once."""
    ini = project.make_history(tmp_path, holders.in_the_server(), project.quick())
    with fleet(3, ledger_url, ini=ini) as instances:
        first = until_one_migrates(instances)
        wait_until(lambda: evidence.executing(ledger_url, "pg_sleep(300)"), "the long statement", seconds=60)
        (backend,) = holders.pids(ledger_url)
        evidence.let_go(ledger_url)
        first.kill(signal.SIGKILL)
        killed = time.monotonic()
        holders.alone_until(ledger_url, lambda: backend not in holders.pids(ledger_url), "its end", seconds=60)
        log.info("the backend of the killed client was gone after %.2f s", time.monotonic() - killed)
        others = [instance for instance in instances if instance is not first]
        attempts = ["interrupted", "applied"]
        holders.alone_until(
            ledger_url, lambda: evidence.outcomes(ledger_url, "in_the_server") == attempts, "a successor", seconds=60
        )
        log.info("its successor was done after %.2f s", time.monotonic() - killed)
        until_all_ready(others)
    assert_taken_over(ledger_url, ini, "in_the_server")
