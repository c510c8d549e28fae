"""A run behind a real PgBouncer does not finish: all of it is rolled back, and the reason is recorded."""

from pathlib import Path
from signal import SIGKILL

import pytest

from tests.support import evidence
from tests.support.fakes import in_the_way
from tests.support.fleet import (
    WAIT_SECONDS,
    Instance,
    fleet,
    marks_in_logs,
    migrate,
    until_all_ready,
    until_one_migrates,
    until_phase,
)
from tests.support.pace import scaled
from tests.support.pooler import StartPooler, through
from tests.support.project import Revision, failing, head, held, make_history, quick, slow
from tests.support.waiting import wait_until

pytestmark = pytest.mark.acceptance


def test_a_failure_rolls_back_the_whole_run_and_is_recorded(
    pgbouncer: StartPooler, ledger_url: str, tmp_path: Path
) -> None:
    """A revision fails behind PgBouncer: those before it are rolled back as well, and only the failure is recorded."""
    ini = make_history(tmp_path, quick(), slow("slow", 1), failing())
    with fleet(2, through(pgbouncer(), ledger_url), ini=ini, MIGRATION_ON_FAILURE="hold") as instances:
        until_phase(instances, "failed")
        assert marks_in_logs(instances) == 1
        for instance in instances:
            message = instance.health()["message"]
            assert "revision failing, Made by a test failed and was rolled back" in message
            assert "secret-word" not in message + instance.log()
    assert evidence.marks(ledger_url) == []
    assert evidence.versions(ledger_url) == [head()]
    assert [(row["revision"], row["outcome"]) for row in evidence.history(ledger_url, extra_only=True)] == [
        ("failing", "failed")
    ]
    evidence.until_unlocked(ledger_url)


def test_another_instance_restarts_the_pooled_run_of_a_killed_one(
    pgbouncer: StartPooler, ledger_url: str, tmp_path: Path
) -> None:
    """SIGKILL behind PgBouncer rolls back the whole run and frees the lock; another instance starts it again."""
    ini = make_history(tmp_path, quick(), held())
    with fleet(3, through(pgbouncer(), ledger_url), ini=ini) as instances:
        killed = until_one_migrates(instances)
        started = "the revision runs"
        wait_until(lambda: evidence.executing(ledger_url, "pg_sleep"), started, seconds=WAIT_SECONDS)
        killed.kill(SIGKILL)
        rest = [instance for instance in instances if instance is not killed]
        successor = until_one_migrates(rest)
        evidence.let_go(ledger_url)
        until_all_ready(rest)
        assert successor.name in evidence.appliers(ledger_url)
        assert killed.name not in {row["instance"] for row in evidence.history(ledger_url, extra_only=True)}
    assert evidence.marks(ledger_url) == ["held", "quick"]
    assert evidence.applied(ledger_url)[-2:] == ["quick", "held"]
    evidence.until_unlocked(ledger_url)


def blockers(instance: Instance) -> list[int]:
    """Return the pids of the blocking sessions that the instance's health names."""
    return [each["pid"] for each in instance.health().get("blocked_by", [])]


async def test_a_blocked_pooled_revision_is_retried(pgbouncer: StartPooler, ledger_url: str, tmp_path: Path) -> None:
    """Another session blocks the revision: each attempt rolls back the whole run, and all is applied once it ends."""
    contended = Revision("contended", 'mark()\nop.execute("ALTER TABLE accounts ADD COLUMN note text")')
    ini = make_history(tmp_path, quick(), contended)
    async with in_the_way(ledger_url, "SELECT count(*) FROM accounts", "nightly-report") as blocker:
        with fleet(2, through(pgbouncer(), ledger_url), ini=ini) as instances:
            retried = lambda: evidence.outcomes(ledger_url, "contended").count("retried") >= 3  # noqa: E731
            wait_until(retried, "three tries", seconds=2 * WAIT_SECONDS)
            assert "quick" not in evidence.applied(ledger_url)
            named = {blocker.get_server_pid()}
            wait_until(lambda: {pid for instance in instances for pid in blockers(instance)} == named, "its pid")
            await blocker.close()
            until_all_ready(instances)
            runs = [instance.health()["last_run"] for instance in instances]
            assert ["quick", "contended"] in [run["applied"] for run in runs if run], "what was rolled back is not in"
    assert set(evidence.outcomes(ledger_url, "contended")) == {"retried", "applied"}
    assert evidence.applied(ledger_url)[-2:] == ["quick", "contended"]
    assert evidence.marks(ledger_url) == ["contended", "quick"]
    evidence.until_unlocked(ledger_url)


SHORT = f"{scaled(6):g}"
DEFERRED = """mark()
op.execute("CREATE TABLE d (a int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
op.execute("INSERT INTO d VALUES (1), (1)")"""


@pytest.mark.parametrize(
    ("body", "seconds", "reason"),
    [
        (DEFERRED, "300", "UniqueViolationError"),
        ('mark()\nop.execute("SELECT pg_sleep(300)")', SHORT, f"MIGRATION_RUN_SECONDS={SHORT}"),
        (
            "mark()\nop.get_bind().commit()\nraise ValueError('boom')",
            "300",
            "was rolled back: ValueError: the text is in",
        ),
    ],
    ids=["deferred constraint", "deadline", "after a commit that is none"],
)
def test_the_failure_that_ends_a_pooled_run_names_its_revision(
    pgbouncer: StartPooler, ledger_url: str, tmp_path: Path, body: str, seconds: str, reason: str
) -> None:
    """A constraint, a timeout or an error ends the run: only one row is left of it, with revision and reason."""
    ini, url = make_history(tmp_path, quick(), Revision("bad", body), quick("after")), through(pgbouncer(), ledger_url)
    with fleet(1, url, ini=ini, MIGRATION_ON_FAILURE="hold", MIGRATION_RUN_SECONDS=seconds) as instances:
        until_phase(instances, "failed")
        health = instances[0].health()
        assert reason in health["message"]
        assert "revision bad" in health["message"]
        assert (health["last_run"]["result"], health["last_run"]["applied"]) == ("failed", [])
    assert evidence.marks(ledger_url) == []
    rows = [(row["revision"], row["outcome"]) for row in evidence.history(ledger_url, extra_only=True)]
    assert rows == [("bad", "failed")]
    evidence.until_unlocked(ledger_url)


async def test_the_wait_budget_ends_pooled_retries(pgbouncer: StartPooler, ledger_url: str, tmp_path: Path) -> None:
    """Behind PgBouncer each attempt is a run of its own, so MIGRATION_WAIT_SECONDS ends a blocked `upgrade` with 4."""
    ini = make_history(tmp_path, Revision("contended", 'op.execute("ALTER TABLE accounts ADD COLUMN note text")'))
    async with in_the_way(ledger_url, "SELECT count(*) FROM accounts", "nightly-report"):
        code, output = migrate("upgrade", "--timeout", SHORT, url=through(pgbouncer(), ledger_url), ini=ini)
    assert code == 4, output
    assert "revision contended" in output
    evidence.until_unlocked(ledger_url)
