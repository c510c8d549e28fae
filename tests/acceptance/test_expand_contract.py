"""A revision marked as a contract waits for instances of older builds to stop, and says what it waits for."""

from pathlib import Path
from signal import SIGTERM

import pytest

from api.migrations.core.status import Phase
from tests.support import evidence, project
from tests.support.fleet import MARK, fleet, migrate, until_all_ready
from tests.support.project import Revision
from tests.support.waiting import wait_until

pytestmark = pytest.mark.acceptance

OLD = project.head()
WIDER = Revision("wider", "mark()", header='phase = "expand"\n')
NARROWER = Revision("narrower", "mark()", header='phase = "contract"\nrequires = "wider"\n')
LEDGER = f"ledger@{OLD}"


def test_a_contract_runs_when_the_last_old_instance_has_stopped(ledger_url: str, tmp_path: Path) -> None:
    """A new instance waits while an instance of the old release has a session, names it, and migrates when it stops."""
    ini = project.make_history(tmp_path, WIDER, NARROWER)
    with fleet(1, ledger_url) as [old]:
        until_all_ready([old])
        assert old.get("/accounts/1").status_code == 404  # its pool connects with the first request
        with fleet(1, ledger_url, ini=ini, first=2) as [new]:
            wait_until(lambda: bool(new.health().get("blocked_by")), "the old instance's session to be seen")
            seen = new.health()
            assert (seen["phase"], seen["blocked_by"][0]["application"]) == (Phase.WAITING, LEDGER)
            assert "To fix: finish the deploy of a release that contains" in seen["message"]
            assert "docs/operations.md#old-instances" in seen["advice"]["runbook"]
            assert evidence.versions(ledger_url) == [OLD], "not even the revision before the contract ran"
            assert old.get("/accounts/1").status_code == 404
            code, output = migrate("upgrade", "--timeout", "1", url=ledger_url, ini=ini)
            assert (code, f"{LEDGER} (1 session" in output) == (4, True), output
            assert MARK not in new.log() + output
            old.kill(SIGTERM)
            old.wait()
            until_all_ready([new])
            assert MARK in new.log()
    outcomes = {row["outcome"] for row in evidence.history(ledger_url, extra_only=True)}
    assert (outcomes, evidence.marks(ledger_url)) == ({"applied"}, ["narrower", "wider"])
