"""The answer to a COMMIT is lost: no process reports a failure, or takes the commit for not done.

A proxy drops the answer and cuts the connection. The log shows how long it took to know (`--log-cli-level=INFO`).
"""

import logging
import time
from pathlib import Path

import pytest

from tests.acceptance.wire import wire
from tests.support import evidence, project
from tests.support.fleet import MARK, alembic, fleet, migrate, until_all_ready

pytestmark = pytest.mark.acceptance

log = logging.getLogger(__name__)

APPLIES, UNDOES = "INSERT INTO marks VALUES ('two')", "DELETE FROM marks WHERE revision = 'two'"


@pytest.fixture
def ini(tmp_path: Path) -> Path:
    """Create a history whose second extra revision loses its answer."""
    return project.make_history(tmp_path, project.quick("one"), project.quick("two"), project.quick("three"))


@pytest.fixture
def migrated_url(ledger_url: str, ini: Path) -> str:
    """Return a database at the revision `two`."""
    code, output = migrate("upgrade", "two", url=ledger_url, ini=ini)
    assert code == 0, output
    return ledger_url


def undone(url: str) -> list[tuple[str, str]]:
    """Return revision and outcome of each attempt to undo a revision."""
    return [(row["revision"], row["outcome"]) for row in evidence.history(url) if row["direction"] == "downgrade"]


def test_instances_find_a_commit_whose_answer_was_lost(ledger_url: str, ini: Path) -> None:
    """The answer to a revision's COMMIT is lost: an instance finds it applied, continues, and reports no failure."""
    with wire(ledger_url) as (server, url):
        server.lose_commit_after = APPLIES
        began = time.monotonic()
        with fleet(2, url, ini=ini) as instances:
            until_all_ready(instances)
            log.info("all ready after %.1f s, with one answer lost", time.monotonic() - began)
            assert not any("Not ready" in instance.log() for instance in instances)
            assert sum("no connection while applying two" in instance.log() for instance in instances) == 1
            assert 1 <= sum(instance.log().count(MARK) for instance in instances) <= 2
        assert server.lost == 1
    assert evidence.applied(ledger_url)[-3:] == ["one", "two", "three"]
    assert evidence.outcomes(ledger_url, "two") == ["applied"]
    assert evidence.marks(ledger_url) == ["one", "three", "two"]
    assert evidence.advisory_locks(ledger_url) == 0


def test_a_downgrade_with_a_lost_answer_undoes_one_revision(migrated_url: str, ini: Path) -> None:
    """`downgrade -1` loses the answer to its COMMIT: it finds its target reached and undoes no second revision."""
    with wire(migrated_url) as (server, url):
        server.lose_commit_after = UNDOES
        code, output = migrate("downgrade", "-1", "--yes", url=url, ini=ini)
        assert server.lost == 1
    assert code == 0, output
    assert "no connection while applying two" in output
    assert undone(migrated_url) == [("two", "applied")]
    assert evidence.marks(migrated_url) == ["one"]
    assert evidence.versions(migrated_url) == ["one"]
    assert evidence.advisory_locks(migrated_url) == 0


def test_a_manual_relative_downgrade_is_not_repeated(migrated_url: str, ini: Path) -> None:
    """`alembic downgrade -1` loses the answer to its COMMIT: it exits with 1 and says that the outcome is unknown."""
    with wire(migrated_url) as (server, url):
        server.lose_commit_after = UNDOES
        code, output = alembic("downgrade", "-1", url=url, ini=ini)
        assert server.lost == 1
    assert code == 1, output
    assert "It is not known whether the last step was committed" in output
    assert "Traceback" not in output
    assert undone(migrated_url) == [("two", "applied")]
    assert evidence.versions(migrated_url) == ["one"]
    assert evidence.advisory_locks(migrated_url) == 0
