"""A revision that terminates its own session or crashes the server has failed after its second attempt."""

from collections import Counter
from pathlib import Path

import pytest

from tests.support import evidence
from tests.support.fleet import MARK, alembic, fleet, migrate
from tests.support.pooler import StartPooler, through
from tests.support.project import Revision, head, make_history, quick
from tests.support.servers import Server, optional
from tests.support.waiting import wait_until

pytestmark = pytest.mark.acceptance

TERMINATES = 'op.execute("SELECT pg_terminate_backend(pg_backend_pid())")'
SWALLOWS = f"""
    try:
        {TERMINATES}
    except Exception:
        pass
"""
# the server terminates every session and recovers, as after a crash in one of its functions
CRASHES = """
    import os
    os.kill(op.get_bind().scalar(sa.text("SELECT pg_backend_pid()")), 9)
    op.execute("SELECT pg_sleep(60)")
"""
SETS_A_LIMIT = """
    op.execute("SET idle_in_transaction_session_timeout = '100ms'")
    time.sleep(0.5)
    op.execute("SELECT 1")
"""


def crashing(body: str) -> Revision:
    """Make a revision that leaves its mark and then loses its connection."""
    return Revision("crashing", f"mark()\n{body.strip()}".replace("\n    ", "\n"))


@pytest.mark.parametrize(
    ("body", "last_words"),
    [
        (TERMINATES, "terminating connection due to administrator command"),
        (SWALLOWS, "PendingRollbackError"),
        (CRASHES, "connection was closed in the middle of operation"),
        (SETS_A_LIMIT, "terminating connection due to idle-in-transaction timeout"),
    ],
    ids=["terminates itself", "and swallows that", "crashes the server", "sets a limit"],
)
def test_a_crashing_revision_fails_after_two_attempts(
    server: Server, ledger_url: str, tmp_path: Path, body: str, last_words: str
) -> None:
    """A revision loses its connection each time: `upgrade` fails after two attempts; the revision before it stays."""
    if body == CRASHES:
        if server.process is None:
            optional("a server of our own to crash", "unset TEST_DATABASE_URL")
        # without a checkpoint a crash resets the sequences of a database that was just copied from a template
        server.execute("CHECKPOINT")
    ini = make_history(tmp_path, quick(), crashing(body), quick("after"))
    code, output = migrate("upgrade", url=ledger_url, ini=ini)
    assert code == 1, output
    assert "revision crashing, Made by a test failed: the connection was lost twice while it ran" in output
    assert last_words in output
    rows = [(row["revision"], row["outcome"]) for row in evidence.history(ledger_url, extra_only=True)]
    assert rows == [("quick", "applied"), ("crashing", "interrupted"), ("crashing", "failed")]
    assert (evidence.marks(ledger_url), evidence.versions(ledger_url)) == (["quick"], ["quick"])
    assert evidence.advisory_locks(ledger_url) == 0


def test_a_manual_upgrade_attempts_a_crashing_revision_twice(ledger_url: str, tmp_path: Path) -> None:
    """`alembic upgrade` runs a revision that loses its connection twice, and then fails with the same message."""
    ini = make_history(tmp_path, crashing(TERMINATES))
    code, output = alembic("upgrade", "head", url=ledger_url, ini=ini)
    assert (code, output.count(f"Running upgrade {head()} -> crashing")) == (1, 2), output
    assert "revision crashing, Made by a test failed: the connection was lost twice while it ran" in output
    assert evidence.outcomes(ledger_url, "crashing") == ["interrupted", "failed"]


def test_each_process_attempts_a_crashing_revision_at_most_twice(ledger_url: str, tmp_path: Path) -> None:
    """Three instances and an operator meet a crashing revision: each attempts it at most twice, and all fail alike."""
    ini = make_history(tmp_path, crashing(TERMINATES))
    with fleet(3, ledger_url, ini=ini) as instances:
        tried = lambda: len(evidence.outcomes(ledger_url, "crashing")) >= 2  # noqa: E731
        wait_until(tried, "two attempts of the fleet")
        code, output = migrate("upgrade", url=ledger_url, ini=ini, MIGRATION_INSTANCE="operator")
        assert (code, "the connection was lost twice" in output) == (1, True), output
        assert [instance.wait() for instance in instances] == [143] * 3
        assert all("the connection was lost twice" in instance.log() for instance in instances)
    attempts = evidence.history(ledger_url, extra_only=True)
    counts = Counter(row["instance"] for row in attempts)
    assert counts["operator"] == 2
    assert max(counts.values()) == 2
    assert {row["outcome"] for row in attempts} == {"interrupted", "failed"}
    assert (evidence.marks(ledger_url), evidence.versions(ledger_url)) == ([], [head()])


def test_a_pooled_crashing_revision_is_recorded_once(pgbouncer: StartPooler, ledger_url: str, tmp_path: Path) -> None:
    """Behind PgBouncer the attempts are rolled back with the whole run, so only the final failure is recorded."""
    ini = make_history(tmp_path, quick(), crashing(TERMINATES))
    code, output = migrate("upgrade", url=through(pgbouncer(), ledger_url), ini=ini)
    assert code == 1, output
    assert "revision crashing, Made by a test failed: the connection was lost twice while it ran" in output
    assert [(row["revision"], row["outcome"]) for row in evidence.history(ledger_url, extra_only=True)] == [
        ("crashing", "failed")
    ]
    assert evidence.versions(ledger_url) == [head()]
    evidence.until_unlocked(ledger_url)


HELPER = """
def concurrently(op, statement):
    with op.get_context().autocommit_block():
        op.execute(statement)
"""


def test_an_autocommit_helper_is_refused_when_pooled(pgbouncer: StartPooler, ledger_url: str, tmp_path: Path) -> None:
    """A helper opens an autocommit_block: behind PgBouncer the revision is refused by name, directly it works."""
    (tmp_path / "index_helper.py").write_text(HELPER)
    body = f"""
        import sys
        sys.path.insert(0, {str(tmp_path)!r})
        from index_helper import concurrently
        mark()
        try:
            concurrently(op, "CREATE INDEX CONCURRENTLY ix ON marks (revision)")
        except Exception:
            pass
    """
    ini = make_history(tmp_path, quick(), Revision("helped", body))
    code, output = migrate("upgrade", url=through(pgbouncer(), ledger_url), ini=ini)
    assert (code, output.count(MARK)) == (1, 1), output
    assert "revision helped, Made by a test uses autocommit_block" in output
    assert "set MIGRATION_DATABASE_URL to the database's direct endpoint" in output
    assert evidence.outcomes(ledger_url, "helped") == ["failed"]
    assert (evidence.marks(ledger_url), evidence.versions(ledger_url)) == ([], [head()])
    evidence.until_unlocked(ledger_url)
    code, output = migrate("upgrade", url=ledger_url, ini=ini)
    assert (code, evidence.marks(ledger_url)) == (0, ["helped", "quick"]), output
