"""A process is killed or gets a signal while it migrates or waits: another finishes, and nothing is applied twice."""

import logging
import signal
import time
from pathlib import Path

import asyncpg
import pytest

from tests.support import evidence, project
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
from tests.support.servers import fetch_sync
from tests.support.waiting import wait_until

pytestmark = pytest.mark.acceptance

log = logging.getLogger(__name__)

INDEX_REVISION, BEFORE_INDEX = "bd60898a6f20", "bffaaced7e40"


def until_running(url: str, revision: str) -> None:
    """Wait until the history shows that an attempt at `revision` is running."""
    wait_until(lambda: evidence.running(url) == [revision], f"revision {revision}", seconds=60)


def end(instance: Instance, number: signal.Signals) -> int:
    """Send a signal, wait for the end and log how long it took (`--log-cli-level=INFO`); return the exit code."""
    sent = time.monotonic()
    instance.kill(number)
    code = instance.wait()
    log.info("%s ended %.2f s after %s", instance.name, time.monotonic() - sent, number.name)
    return code


AFTER = """
import time

import sqlalchemy as sa


def after(connection):
    connection.execute(sa.text("INSERT INTO marks VALUES ('after')"))
    while not connection.scalar(sa.text("SELECT count(*) FROM pg_class WHERE relname = 'let_go'")):
        time.sleep(0.05)
"""


def is_called(url: str) -> bool:
    """Return whether the function `after` is called; the revision itself had a row that said running before."""
    return any((row["direction"], row["outcome"]) == ("after", "running") for row in evidence.history(url))


def test_a_waiter_calls_after_when_the_lock_holder_is_killed_in_it(ledger_url: str, tmp_path: Path) -> None:
    """SIGKILL ends the lock holder inside `after`: no instance is ready before another one has finished it once."""
    ini = project.make_history(tmp_path, project.quick())
    (tmp_path / "moment.py").write_text(AFTER)
    with fleet(2, ledger_url, ini=ini, MIGRATION_AFTER="moment:after", PYTHONPATH=str(tmp_path)) as instances:
        wait_until(lambda: is_called(ledger_url), "the function after", seconds=60)
        first = until_one_migrates(instances)
        assert end(first, signal.SIGKILL) == 137
        others = [instance for instance in instances if instance is not first]
        again = ["applied", "interrupted", "running"]
        wait_until(lambda: evidence.outcomes(ledger_url, "quick") == again, "a second call", seconds=60)
        assert not any(instance.ready() for instance in others)
        evidence.let_go(ledger_url)
        until_all_ready(others)
    assert evidence.outcomes(ledger_url, "quick") == ["applied", "interrupted", "applied"]
    assert evidence.marks(ledger_url) == ["after", "quick"]
    assert migrate("upgrade", url=ledger_url, ini=ini, MIGRATION_AFTER="moment:after", PYTHONPATH=str(tmp_path))[0] == 0
    assert evidence.marks(ledger_url) == ["after", "quick"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_waiter_takes_over_when_the_lock_holder_ends(ledger_url: str, tmp_path: Path, number: signal.Signals) -> None:
    """SIGKILL or SIGTERM ends the lock holder in mid-revision: a waiter runs it again, and each is applied once."""
    ini = project.make_history(tmp_path, project.quick(), project.held(), project.slow(seconds=2))
    with fleet(3, ledger_url, ini=ini) as instances:
        first = until_one_migrates(instances)
        until_running(ledger_url, "held")
        assert end(first, number) == 128 + number
        others = [instance for instance in instances if instance is not first]
        second = until_one_migrates(others)
        begun = ["interrupted", "running"]
        wait_until(lambda: evidence.outcomes(ledger_url, "held") == begun, "a second attempt", seconds=30)
        evidence.let_go(ledger_url)
        until_all_ready(others)
        assert [instance.log().count(MARK) for instance in (first, second)] == [1, 1]
        assert sum(instance.log().count(MARK) for instance in instances) == 2
    rows = [(r["revision"], r["outcome"], r["instance"]) for r in evidence.history(ledger_url, extra_only=True)]
    assert rows == [
        ("quick", "applied", first.name),
        ("held", "interrupted", first.name),
        ("held", "applied", second.name),
        ("slow", "applied", second.name),
    ]
    assert evidence.marks(ledger_url) == ["held", "quick", "slow"]
    assert evidence.advisory_locks(ledger_url) == 0


def test_a_waiter_stops_on_sigterm(ledger_url: str, tmp_path: Path) -> None:
    """SIGTERM ends one of two waiters with 143; the lock holder and the other waiter finish undisturbed."""
    ini = project.make_history(tmp_path, project.held())
    with fleet(3, ledger_url, ini=ini) as instances:
        migrator = until_one_migrates(instances)
        waiting = [instance for instance in instances if instance is not migrator]
        until_phase(waiting, "waiting")
        assert end(waiting[0], signal.SIGTERM) == 143
        assert "Traceback" not in waiting[0].log()
        wait_until(lambda: len(evidence.sessions(ledger_url)) == 2, "its session's end", seconds=30)
        evidence.let_go(ledger_url)
        until_all_ready([migrator, waiting[1]])
    assert evidence.outcomes(ledger_url, "held") == ["applied"]
    assert evidence.marks(ledger_url) == ["held"]


def test_ctrl_c_stops_a_waiting_command(ledger_url: str, tmp_path: Path) -> None:
    """Ctrl-C ends `wait` with 130 while another process migrates; that migration finishes."""
    ini = project.make_history(tmp_path, project.held())
    with (
        start_migrate("upgrade", url=ledger_url, ini=ini) as migrator,
        start_migrate("wait", url=ledger_url, ini=ini) as waiting,
    ):
        until_running(ledger_url, "held")
        wait_until(lambda: len(evidence.sessions(ledger_url)) == 2, "two sessions", seconds=60)
        waiting.send_signal(signal.SIGINT)
        assert finish(waiting, seconds=60)[0] == 130
        evidence.let_go(ledger_url)
        assert finish(migrator)[0] == 0
    assert evidence.outcomes(ledger_url, "held") == ["applied"]


@pytest.mark.parametrize("repair", ["--rerun", "--stamp"])
def test_a_half_applied_revision_waits_for_a_repair(ledger_url: str, tmp_path: Path, repair: str) -> None:
    """SIGKILL after a commit in mid-revision: all instances and `upgrade` refuse to run it again until `repair`."""
    ini = project.make_history(tmp_path, project.half_applied(), project.quick())
    with fleet(3, ledger_url, ini=ini, MIGRATION_ON_FAILURE="hold") as instances:
        first = until_one_migrates(instances)
        until_running(ledger_url, "half")
        wait_until(lambda: evidence.marks(ledger_url) == ["half"], "what it commits", seconds=30)
        first.kill(signal.SIGKILL)
        first.wait()
        others = [instance for instance in instances if instance is not first]
        until_phase(others, "failed")
        # an instance that looks while the other one holds the lock does not know whether the revision runs
        wait_until(lambda: {one.health()["state"] for one in others} == {"dirty"}, "both dirty", seconds=60)
        for instance in others:
            assert "revision half committed a part of its work" in instance.health()["message"]
            assert MARK not in instance.log()
    code, output = migrate("upgrade", url=ledger_url, ini=ini)
    assert (code, "SchemaRefused: revision half" in output) == (7, True), output
    assert evidence.outcomes(ledger_url, "half") == ["half_applied"]
    assert evidence.marks(ledger_url) == ["half"]
    evidence.let_go(ledger_url)
    for command in (["repair", repair], ["upgrade"], ["check"]):
        code, output = migrate(*command, url=ledger_url, ini=ini)
        assert code == 0, output
    again = repair == "--rerun"
    assert evidence.outcomes(ledger_url, "half") == ["interrupted", "applied" if again else "stamped"]
    assert evidence.marks(ledger_url) == ["half"] * (1 + again) + ["quick"]


@pytest.mark.parametrize("repair", ["--rerun", "--stamp"])
def test_repair_refuses_a_running_revision(ledger_url: str, tmp_path: Path, repair: str) -> None:
    """`repair` starts while the revision still runs: it waits for the lock, exits with 1 and changes nothing."""
    ini = project.make_history(tmp_path, project.half_applied(), project.quick())
    with start_migrate("upgrade", url=ledger_url, ini=ini) as migrator:
        wait_until(lambda: evidence.marks(ledger_url) == ["half"], "what it commits", seconds=30)
        with start_migrate("repair", repair, url=ledger_url, ini=ini, MIGRATION_INSTANCE="operator") as operator:
            waiting = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE '%waiting:operator%'"
            wait_until(lambda: fetch_sync(ledger_url, waiting)[0][0] == 1, "a repair that waits", seconds=30)
            evidence.let_go(ledger_url)
            assert finish(migrator)[0] == 0
            code, output = finish(operator)
    assert (code, "is not half applied any more" in output) == (1, True), output
    assert [row["outcome"] for row in evidence.history(ledger_url, extra_only=True)] == ["applied", "applied"]
    assert migrate("check", url=ledger_url, ini=ini)[0] == 0


async def test_an_idempotent_revision_is_run_again(database_url: str) -> None:
    """SIGKILL in CREATE INDEX CONCURRENTLY: the next lock holder drops the INVALID index and builds it again."""
    assert migrate("upgrade", BEFORE_INDEX, url=database_url)[0] == 0
    writer = await asyncpg.connect(database_url)
    try:
        # an index is not built beside a transaction that may still write to the table
        await writer.execute("BEGIN; LOCK TABLE postings IN ROW EXCLUSIVE MODE")
        with fleet(3, database_url) as instances:
            first = until_one_migrates(instances)
            wait_until(lambda: evidence.invalid_indexes(database_url) != [], "an unfinished index", seconds=30)
            first.kill(signal.SIGKILL)
            first.wait()
            others = [instance for instance in instances if instance is not first]
            second = until_one_migrates(others)
            wait_until(lambda: evidence.executing(database_url, "DROP INDEX"), "its removal", seconds=30)
            await writer.execute("ROLLBACK")
            until_all_ready(others)
    finally:
        await writer.close()
    assert evidence.invalid_indexes(database_url) == []
    rows = [(r["outcome"], r["instance"]) for r in evidence.history(database_url) if r["revision"] == INDEX_REVISION]
    assert rows == [("interrupted", first.name), ("applied", second.name)]
    assert evidence.versions(database_url) == [project.head()]
