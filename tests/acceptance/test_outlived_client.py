"""A statement outside a transaction finishes after its client was killed: the history calls it what it is."""

import signal
from pathlib import Path

import pytest

from tests.support import evidence, project
from tests.support.fakes import barrier
from tests.support.fleet import MARK, Instance, fleet, migrate, until_all_ready, until_one_migrates, until_phase
from tests.support.waiting import wait_until

pytestmark = pytest.mark.acceptance

# one statement, which waits at the barrier of `fakes` and leaves its mark when it is let go
BODY = """
with op.get_context().autocommit_block():
    op.execute("CREATE TABLE IF NOT EXISTS marks (revision text)")
    op.execute("INSERT INTO marks SELECT 'orphan' FROM pg_advisory_lock(777) WHERE NOT EXISTS (SELECT FROM marks)")
"""
ONCE = project.Revision("orphan", BODY)
AGAIN = project.Revision("orphan", BODY, header="idempotent = True")
PATIENT = "0"
"""A lock timeout of 0 lets the statement wait at the barrier as long as the test wants."""


async def outlived(url: str, instances: list[Instance]) -> Instance:
    """Kill the lock holder inside its statement, let the statement finish, and return the waiter."""
    async with barrier(url) as reached:
        await reached()
        first = until_one_migrates(instances)
        (other,) = (instance for instance in instances if instance is not first)
        until_phase([other], "waiting")
        first.kill(signal.SIGKILL)
        first.wait()
        assert evidence.marks(url) == [], "it dies before its statement is done"
    wait_until(lambda: evidence.marks(url) == ["orphan"], "what the dead one's statement did", seconds=30)
    return other


async def test_an_outlived_statement_is_not_repeated(ledger_url: str, tmp_path: Path) -> None:
    """The killed holder's statement still commits: the revision is half applied; waiter and `upgrade` refuse it."""
    ini = project.make_history(tmp_path, ONCE)
    with fleet(
        2, ledger_url, ini=ini, MIGRATION_ON_FAILURE="hold", MIGRATION_LOCK_TIMEOUT_SECONDS=PATIENT
    ) as instances:
        other = await outlived(ledger_url, instances)
        until_phase([other], "failed")
        health = other.health()
        assert health["state"] == "dirty"
        assert "revision orphan committed a part of its work and did not finish" in health["message"]
        assert MARK not in other.log()
    code, output = migrate("upgrade", url=ledger_url, ini=ini)
    assert (code, "repair --stamp" in output) == (7, True), output
    assert evidence.outcomes(ledger_url, "orphan") == ["half_applied"]
    assert evidence.versions(ledger_url) == [project.head()]
    assert evidence.marks(ledger_url) == ["orphan"]
    assert evidence.advisory_locks(ledger_url) == 0


async def test_an_outlived_idempotent_statement_is_run_again(ledger_url: str, tmp_path: Path) -> None:
    """The killed holder's statement commits in an idempotent revision: the waiter runs it again and it is applied."""
    ini = project.make_history(tmp_path, AGAIN)
    with fleet(2, ledger_url, ini=ini, MIGRATION_LOCK_TIMEOUT_SECONDS=PATIENT) as instances:
        until_all_ready([await outlived(ledger_url, instances)])
    assert evidence.outcomes(ledger_url, "orphan") == ["interrupted", "applied"]
    assert evidence.versions(ledger_url) == ["orphan"]
    assert evidence.marks(ledger_url) == ["orphan"]
    assert evidence.advisory_locks(ledger_url) == 0
