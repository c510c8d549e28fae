"""An operator sees lock holder, progress, waiters and blocking session in every instance, `status` and the log."""

import re
from pathlib import Path

import pytest

from tests.support import evidence, project
from tests.support.fakes import in_the_way
from tests.support.fleet import Instance, fleet, migrate, roles, until_all_ready, until_one_migrates
from tests.support.servers import fetch_sync
from tests.support.waiting import wait_until

pytestmark = pytest.mark.acceptance

NAME = "nightly-report"
BLOCKED = project.contended("blocked")
SOON_SECONDS = 10.0
"""How many seconds may pass until an operator can read which session blocks."""

# a build gets as far as the row that the test allows: every snapshot sees the current value of a sequence
GATED_ROWS = (
    "CREATE SEQUENCE allowed MINVALUE 0",
    """
    CREATE FUNCTION gated(a int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$
    BEGIN WHILE (SELECT last_value FROM public.allowed) < a LOOP PERFORM pg_sleep(0.02); END LOOP; RETURN a; END $$
    """,
    "CREATE TABLE t AS SELECT a, repeat('x', 1000) AS b FROM generate_series(1, 400) a",
)
SCANNING = "building index: scanning table"


def percent(instance: Instance) -> float | None:
    """Return how far the scan of an index build is by the health of an instance, or None while it shows none."""
    statement = (instance.health().get("progress") or {}).get("statement") or {}
    return statement["percent"] if statement.get("phase") == SCANNING else None


def test_each_instance_shows_the_whole_fleet(ledger_url: str, tmp_path: Path) -> None:
    """Five instances: each shows one lock holder and four waiters by name, and no member once all are ready."""
    ini = project.make_history(tmp_path, project.held())
    with fleet(5, ledger_url, ini=ini) as instances:
        migrator = until_one_migrates(instances)
        expected = sorted(("migrating" if i is migrator else "waiting", i.name) for i in instances)
        wait_until(lambda: all(roles(i) == expected for i in instances), "five that see five", seconds=60)
        evidence.let_go(ledger_url)
        until_all_ready(instances)
        assert [roles(instance) for instance in instances] == [[]] * 5


async def test_the_blocking_session_is_shown_everywhere(ledger_url: str, tmp_path: Path) -> None:
    """A statement waits for a lock: the health of holder and waiter, `status` and the log name the blocking session."""
    ini = project.make_history(tmp_path, BLOCKED)
    async with in_the_way(ledger_url, "SELECT count(*) FROM accounts", NAME) as blocker:
        with fleet(2, ledger_url, ini=ini, MIGRATION_LOCK_TIMEOUT_SECONDS="0") as instances:
            migrator = until_one_migrates(instances)
            pid = blocker.get_server_pid()
            for instance in instances:
                wait_until(lambda i=instance: bool(i.health().get("blocked_by")), "somebody in the way", seconds=60)  # type: ignore[misc]
                (seen,) = instance.health()["blocked_by"]
                assert (seen["pid"], seen["application"], seen["relation"]) == (pid, NAME, "accounts")
                assert instance.health()["progress"]["statement"]["kind"] == "ALTER TABLE"
            (waiter,) = (instance for instance in instances if instance is not migrator)
            way = f"pid {pid} ({NAME}, user postgres, idle in transaction for "
            assert way in waiter.health()["message"]
            wait_until(lambda: f"blocked waits: {migrator.name} (pid " in migrator.log(), "a log line", seconds=60)
            wait_until(lambda: way in waiter.log(), "the waiting instance's log", seconds=60)
            code, output = migrate("status", url=ledger_url, ini=ini)
            assert code == 0, output
            assert f"{way}" in output
            assert "blocks AccessExclusiveLock on accounts" in output
            await blocker.close()
            until_all_ready(instances)
    assert evidence.marks(ledger_url) == ["blocked"]


async def test_the_blocking_session_is_shown_between_two_attempts(ledger_url: str, tmp_path: Path) -> None:
    """The holder pauses after a lock timeout: all name the blocking session, the attempt and the time of the next."""
    ini = project.make_history(tmp_path, project.contended("blocked", pause_seconds=60))
    async with in_the_way(ledger_url, "SELECT count(*) FROM accounts", NAME) as blocker:
        pid = blocker.get_server_pid()
        way = f"pid {pid} ({NAME}, user postgres, idle in transaction for "
        with fleet(2, ledger_url, ini=ini) as instances:
            migrator = until_one_migrates(instances)
            (waiter,) = (instance for instance in instances if instance is not migrator)
            wait_until(lambda: evidence.outcomes(ledger_url, "blocked") == ["retried"], "the pause", seconds=60)
            wait_until(
                lambda: bool(waiter.health().get("progress", {}).get("attempt")), "the pause seen", seconds=SOON_SECONDS
            )
            for instance in instances:
                health = instance.health()
                (seen,) = health["blocked_by"]
                assert (seen["pid"], seen["application"], seen["relation"]) == (pid, NAME, "accounts")
                assert health["progress"]["attempt"] == 1
                assert health["progress"]["next_try_at"] is not None
                assert health["progress"]["statement"] is None
                assert way in health["message"]
                page = instance.get("/health/migrations", accept="text/html").text
                assert "attempt 1 did not acquire its table lock; the next attempt is in " in page
                assert NAME in page
            wait_until(lambda: way in waiter.log(), "the waiting instance's log", seconds=SOON_SECONDS)
            code, output = migrate("status", url=ledger_url, ini=ini)
            assert code == 0, output
            assert f"held by {migrator.name} (pid " in output
            assert ": attempt 1 did not acquire its table lock, the next one is in " in output
            assert way in output
            assert re.search(r"blocked for [0-9.]+ s, gives up in \d+ (s|min) \(MIGRATION_RUN_SECONDS=300,", output)
            assert re.search(r"retry in [0-9.]+ s; blocked for [0-9.]+ s, gives up in \d+ (s|min) ", migrator.log())
            assert re.search(r"; blocked for [0-9.]+ s, gives up in .*\(MIGRATION_WAIT_SECONDS\)", waiter.log())
            code, output = migrate("history", url=ledger_url, ini=ini)
            assert "blocked_by" not in output


def test_the_progress_of_an_index_build_is_shown_everywhere(ledger_url: str, tmp_path: Path) -> None:
    """An index is built: the health of lock holder and waiter and `status` show its percentage as it grows."""
    for sql in GATED_ROWS:
        fetch_sync(ledger_url, sql)
    ini = project.make_history(tmp_path, project.concurrent_index(table="t", on="gated(a)"))
    with fleet(2, ledger_url, ini=ini) as instances:
        migrator = until_one_migrates(instances)
        (waiter,) = (instance for instance in instances if instance is not migrator)
        for low, rows, high in ((20, 120, 40), (60, 280, 80)):
            fetch_sync(ledger_url, "SELECT setval('allowed', $1)", rows)
            for instance in (waiter, migrator):
                wait_until(
                    lambda i=instance, low=low, high=high: low < (percent(i) or 0) < high,  # type: ignore[misc]
                    f"{instance!r} between {low} % and {high} %",
                    seconds=60,
                )
            code, output = migrate("status", url=ledger_url, ini=ini)
            shown = re.search(rf"CREATE INDEX CONCURRENTLY, {SCANNING} (\d+) %", output)
            assert (code, shown is not None) == (0, True), output
            assert low < int(shown[1] if shown else 0) < high
        fetch_sync(ledger_url, "SELECT setval('allowed', 400)")
        until_all_ready(instances)
    assert evidence.invalid_indexes(ledger_url) == []
