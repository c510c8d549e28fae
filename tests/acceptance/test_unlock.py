"""`./migrate.sh unlock` terminates a stopped lock holder, and refuses to terminate one that makes progress."""

import signal
from pathlib import Path

import pytest

from tests.acceptance import holders
from tests.support import evidence, project
from tests.support.fakes import in_the_way
from tests.support.fleet import finish, fleet, migrate, start_migrate, until_all_ready, until_one_migrates
from tests.support.waiting import wait_until

pytestmark = pytest.mark.acceptance


def test_unlock_terminates_a_stopped_lock_holder(ledger_url: str, tmp_path: Path) -> None:
    """The holder is stopped without an idle limit: `unlock` ends its session and records that; the others finish."""
    ini = project.make_history(tmp_path, holders.in_python(tmp_path), project.quick())
    with fleet(3, ledger_url, ini=ini, MIGRATION_IDLE_SECONDS="0") as instances:
        first = until_one_migrates(instances)
        wait_until((tmp_path / "asleep").exists, "the revision in Python", seconds=60)
        first.kill(signal.SIGSTOP)
        (pid,) = holders.pids(ledger_url)
        evidence.let_go(ledger_url)
        code, output = migrate("unlock", url=ledger_url, ini=ini, MIGRATION_INSTANCE="night-shift")
        assert code == 0, output
        assert f"{first.name} (pid {pid}) holds the lock" in output
        assert f"terminated session {pid} of {first.name}; its open transaction is rolled back" in output
        until_all_ready([instance for instance in instances if instance is not first])
        (tmp_path / "wake").touch()
        first.kill(signal.SIGCONT)
        until_all_ready(instances)
    rows = [
        (row["direction"], row["outcome"]) for row in evidence.history(ledger_url) if row["revision"] == "in_python"
    ]
    assert sorted(rows) == [("unlock", "unlocked"), ("upgrade", "applied"), ("upgrade", "interrupted")]
    (unlocked,) = (row for row in evidence.history(ledger_url) if row["direction"] == "unlock")
    assert (unlocked["instance"], unlocked["error"]) == ("night-shift", f"ended session {pid} of {first.name}")
    assert unlocked["started_at"] == unlocked["finished_at"]
    assert evidence.marks(ledger_url) == ["in_python", "quick"]
    code, output = migrate("history", url=ledger_url, ini=ini)
    assert "by night-shift (postgres)  ended session" in output


@pytest.mark.parametrize("how", ["in one long statement", "in many short ones"])
def test_unlock_refuses_to_terminate_a_lock_holder_that_makes_progress(
    ledger_url: str, tmp_path: Path, how: str
) -> None:
    """The holder runs a statement: `unlock` exits with 1 and says so; `--force` terminates it and another finishes."""
    long = how == "in one long statement"
    ini = project.make_history(tmp_path, holders.in_the_server("work") if long else project.held("work"))
    with fleet(2, ledger_url, ini=ini) as instances:
        migrator = until_one_migrates(instances)
        wait_until(lambda: evidence.executing(ledger_url, "pg_sleep"), "the revision", seconds=60)
        code, output = migrate("unlock", url=ledger_url, ini=ini)
        assert code == 1, output
        assert f"LockHeld: {migrator.name} (pid " in output
        assert "repeat with --force" in output
        assert evidence.outcomes(ledger_url, "work") == ["running"]
        evidence.let_go(ledger_url)
        if long:
            code, output = migrate("unlock", "--force", url=ledger_url, ini=ini)
            assert code == 0, output
        until_all_ready(instances)
    assert evidence.marks(ledger_url) == ["work"]


async def test_unlock_refuses_to_terminate_a_lock_holder_that_pauses_before_a_retry(
    ledger_url: str, tmp_path: Path
) -> None:
    """The holder executes nothing for 60 s between two attempts: `unlock` exits with 1 and leaves it running."""
    ini = project.make_history(tmp_path, project.contended(pause_seconds=60))
    async with in_the_way(ledger_url, "SELECT count(*) FROM accounts", "nightly-report"):
        with start_migrate("upgrade", url=ledger_url, ini=ini) as upgrade:
            tried = ["retried"]
            wait_until(lambda: evidence.outcomes(ledger_url, "contended") == tried, "the pause", seconds=60)
            code, output = migrate("unlock", url=ledger_url, ini=ini)
            assert (code, "LockHeld: " in output) == (1, True), output
            assert upgrade.poll() is None
    assert evidence.outcomes(ledger_url, "contended") == tried


@pytest.mark.parametrize("pod", ["payments-api-deployment-6d4f8c9b7d-x2k9p-1", "заказы-1"])
def test_unlock_finds_a_long_or_non_ascii_instance_in_the_history(ledger_url: str, tmp_path: Path, pod: str) -> None:
    """The server keeps only a short ASCII part of the instance's name: `unlock --force` still records what it ended."""
    ini = project.make_history(tmp_path, project.held())
    with start_migrate("upgrade", url=ledger_url, ini=ini, MIGRATION_INSTANCE=pod) as upgrade:
        wait_until(lambda: evidence.outcomes(ledger_url, "held") == ["running"], "the revision", seconds=60)
        code, output = migrate("unlock", "--force", url=ledger_url, ini=ini)
        assert code == 0, output
        evidence.let_go(ledger_url)
        assert finish(upgrade)[0] == 0
    assert sorted(evidence.outcomes(ledger_url, "held")) == ["applied", "interrupted", "unlocked"]


def test_unlock_changes_nothing_if_the_lock_is_free(ledger_url: str) -> None:
    """No session holds the lock: `unlock` exits with 0, says so, and leaves the history unchanged."""
    before = evidence.history(ledger_url)
    code, output = migrate("unlock", url=ledger_url)
    assert (code, "no session holds the lock" in output) == (0, True), output
    assert evidence.history(ledger_url) == before
