"""Requests that schemathesis generates from the OpenAPI document find no fault in the service."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.fleet import environment, fleet
from tests.support.project import ROOT
from tests.support.waiting import FOREVER_SECONDS

pytestmark = pytest.mark.acceptance

EXAMPLES = "12"
"""For each operation, and for the sequences along links; a larger number and another seed find more."""


def test_generated_requests_find_no_fault(ledger_url: str, tmp_path: Path) -> None:
    """Valid and invalid requests, and sequences along the links, pass all checks of schemathesis; the same each run."""
    with fleet(1, ledger_url) as (instance,):
        instance.until(instance.ready, "ready")
        options = ["--checks", "all", "--exclude-checks", "positive_data_acceptance", "--max-examples", EXAMPLES]
        fixed = ["--seed", "1", "--generation-deterministic", "--no-color"]
        done = subprocess.run(
            [sys.executable, "-m", "schemathesis.cli", "run", instance.url("/openapi.json"), *options, *fixed],
            cwd=tmp_path,
            env={**environment(None), "SCHEMATHESIS_HOOKS": "tests.acceptance.generated", "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=FOREVER_SECONDS,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        # the checks saw transactions that were posted, and not only refused ones
        assert instance.get("/transactions").json()["transactions"]
        assert "Traceback" not in instance.log()
