"""A revision marked as a contract waits for instances of older builds to stop, and says what it waits for."""

import json
import re
from pathlib import Path
from signal import SIGTERM

import pytest

from api.migrations.core.status import Phase
from tests.support import evidence, project
from tests.support.fleet import MARK, fleet, migrate, until_all_ready, until_phase
from tests.support.project import Revision
from tests.support.waiting import wait_until

pytestmark = pytest.mark.acceptance

OLD = project.head()
WIDER = Revision("wider", "mark()", header='phase = "expand"\n')
NARROWER = Revision("narrower", "mark()", header='phase = "contract"\nrequires = "wider"\n')
LEDGER = f"ledger@{OLD}"


def test_a_contract_runs_when_the_last_old_instance_has_stopped(ledger_url: str, tmp_path: Path) -> None:
    """A new instance waits for an instance of the old release and names it; after the contract no old one serves."""
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
            assert (new.health()["blocked_by"], new.health()["message"]) == ([], None)
    with fleet(1, ledger_url, MIGRATION_ON_FAILURE="hold") as [back]:
        until_phase([back], "failed")
        assert f"this build (head {OLD}) cannot run on it, because it lacks wider" in back.message()
        assert "Deploy a release that contains wider" in back.health()["advice"]["text"]
    code, output = migrate("check", "--for-rollback", OLD, url=ledger_url, ini=ini)
    assert code == 7, output
    rows = [re.split(r"  +", line)[1:3] for line in output.splitlines()[:3]]
    assert rows == [["mark", "verdict"], ["expand", "runs"], ["contract", "fails"]], output
    assert output.splitlines()[3].startswith(f"the release at {OLD} may not run on this schema: it would fail after")
    code, output = migrate("check", "--for-rollback", "wider", "--json", url=ledger_url, ini=ini)
    assert (code, json.loads(output)["may_run"]) == (0, True), output
    outcomes = {row["outcome"] for row in evidence.history(ledger_url, extra_only=True)}
    assert (outcomes, evidence.marks(ledger_url)) == ({"applied"}, ["narrower", "wider"])
