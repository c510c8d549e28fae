"""A small `./dev rollout`: a release and its rollback under load behind haproxy, with real processes."""

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from bench.errors import BenchError
from bench.laboratory import Laboratory
from bench.rollout import long_transaction
from bench.rollout.load import Generator
from bench.rollout.long_transaction import open_report
from bench.rollout.outcome import QUICK, kinds
from bench.rollout.proxy import CONFIGURATION
from bench.rollout.scenario import Rollout
from bench.rollout.variant import ours
from bench.server import BenchServer
from tests.support.servers import Server, fetch_sync, program
from tests.support.waiting import FOREVER_SECONDS

pytestmark = pytest.mark.acceptance


@pytest.fixture
def haproxy() -> Path:
    """Return haproxy's path; skip the test without it."""
    return program("haproxy", "apt-get install haproxy", "/usr/sbin")


def test_the_configuration_for_users_is_valid(haproxy: Path) -> None:
    """The load balancer accepts deploy/haproxy/haproxy.cfg without a warning."""
    done = subprocess.run([haproxy, "-c", "-f", CONFIGURATION], capture_output=True, text=True)
    assert (done.returncode, "WARNING" in done.stdout + done.stderr) == (0, False), done.stderr


def test_an_error_ends_the_report(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An instance that fails, or Ctrl-C, does not wait for a migration that may never come."""
    monkeypatch.setattr(long_transaction, "LONGEST_SECONDS", 10 * FOREVER_SECONDS)
    fetch_sync(database_url, "CREATE TABLE postings (amount int)")
    with pytest.raises(BenchError), open_report(database_url, 10 * FOREVER_SECONDS):
        raise BenchError("the instance exited")


@pytest.mark.usefixtures("haproxy")
def test_no_request_fails_in_a_deploy_and_a_rollback(server: Server, database_url: str, tmp_path: Path) -> None:
    """Release 2 replaces release 1 and back under load: each request succeeds, and one instance has migrated."""
    steps: list[str] = []
    lab = Laboratory(BenchServer(server), quick=True, _folder=tmp_path)
    size = replace(QUICK, postings=2_000, rate=10)
    outcome = Rollout(lab, ours(tmp_path, releases=(1, 2)), database_url, size, steps.append).run(Generator())
    assert kinds(outcome.samples) == {}, "\n".join([*steps, *outcome.logs.values()])
    assert [phase.name for phase in outcome.phases] == ["before", "deploy", "between", "rollback", "downgrade", "after"]
    assert all(outcome.of(phase) for phase in outcome.phases)
    assert outcome.migrators == ["new-1"]
