"""A failing revision is rolled back and recorded once; every waiter reports it, and only the next start retries it."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.acceptance import holders
from tests.support import evidence, project
from tests.support.fleet import (
    MARK,
    Instance,
    fleet,
    migrate,
    start_migrate,
    until_all_ready,
    until_one_migrates,
    until_phase,
)
from tests.support.pace import scaled
from tests.support.waiting import FOREVER_SECONDS, wait_until

pytestmark = pytest.mark.acceptance

FAILING = project.failing()


@pytest.fixture
def ini(tmp_path: Path) -> Path:
    """Create a history with a held revision and then one that fails."""
    return project.make_history(tmp_path, project.held(), FAILING)


def until_all_have_looked(instances: Sequence[Instance]) -> None:
    """Wait until one instance is in the held revision and all others know that."""
    wait_until(lambda: holders.all_see_the_held_one(instances), "instances that see the held revision", seconds=60)


def assert_one_attempt(url: str) -> None:
    """Assert that the held revision is applied, and the failing one was attempted once and rolled back."""
    assert evidence.outcomes(url, FAILING.id) == ["failed"]
    assert evidence.versions(url) == ["held"]
    assert evidence.marks(url) == ["held"]
    assert evidence.advisory_locks(url) == 0


def test_held_instances_name_the_revision_and_recover(ledger_url: str, ini: Path) -> None:
    """With MIGRATION_ON_FAILURE=hold three instances name the revision that one ran, and are ready after `upgrade`."""
    with fleet(3, ledger_url, ini=ini, MIGRATION_ON_FAILURE="hold") as instances:
        until_all_have_looked(instances)
        evidence.let_go(ledger_url)
        until_phase(instances, "failed")
        for instance in instances:
            statuses = [instance.get(f"/health/{probe}").status_code for probe in ("live", "ready", "migrations")]
            assert statuses == [200, 503, 503]
            assert "revision failing" in instance.health()["message"]
            assert "failed and was rolled back" in instance.health()["message"]
            assert "secret-word" not in instance.get("/health/migrations").text + instance.log()
            assert instance.get("/accounts/1").status_code == 503
        (migrator,) = (instance for instance in instances if MARK in instance.log())
        run = migrator.health()["last_run"]
        assert (run["result"], run["applied"], run["instance"]) == ("failed", ["held"], migrator.name)
        assert "revision failing" in run["error"]
        assert_one_attempt(ledger_url)
        mended = project.quick(FAILING.id)
        project.revision_file(ini, mended).write_text(mended.source("held"))
        code, output = migrate("upgrade", url=ledger_url, ini=ini)
        assert code == 0, output
        until_all_ready(instances)
        assert all("Recovered" in instance.log() for instance in instances)
        assert sum(instance.log().count(MARK) for instance in instances) == 1
    assert evidence.outcomes(ledger_url, FAILING.id) == ["failed", "applied"]


@pytest.mark.parametrize("mode", ["gate", "block"])
def test_instances_exit_and_the_next_start_retries_the_revision(ledger_url: str, ini: Path, mode: str) -> None:
    """A revision fails: all instances exit non-zero; the next start fails again, and once corrected it is applied."""
    with fleet(3, ledger_url, ini=ini, MIGRATION_STARTUP_MODE=mode) as instances:
        wait_until(lambda: len(evidence.sessions(ledger_url)) == 3, "three sessions", seconds=60)
        wait_until(lambda: "held" in evidence.running(ledger_url), "the held revision", seconds=60)
        evidence.let_go(ledger_url)
        codes = [instance.wait() for instance in instances]
        assert codes == [143 if mode == "gate" else 3] * 3
        assert all("Not ready: revision failing" in instance.log() for instance in instances)
        assert sum(instance.log().count(MARK) for instance in instances) == 1
        assert "secret-word" not in "".join(instance.log() for instance in instances)
    assert_one_attempt(ledger_url)
    with fleet(1, ledger_url, ini=ini, MIGRATION_STARTUP_MODE=mode) as (again,):
        assert again.wait() != 0
    assert evidence.outcomes(ledger_url, FAILING.id) == ["failed", "failed"]
    mended = project.quick(FAILING.id)
    project.revision_file(ini, mended).write_text(mended.source("held"))
    with fleet(1, ledger_url, ini=ini, MIGRATION_STARTUP_MODE=mode) as instances:
        until_all_ready(instances)
    assert evidence.outcomes(ledger_url, FAILING.id) == ["failed", "failed", "applied"]
    assert evidence.marks(ledger_url) == [FAILING.id, "held"]


def test_the_command_reports_a_failing_revision_in_one_line(ledger_url: str, tmp_path: Path) -> None:
    """`upgrade` exits with 1; its last line names the revision, the error and the place in the file."""
    ini = project.make_history(tmp_path, FAILING)
    code, output = migrate("upgrade", url=ledger_url, ini=ini)
    assert code == 1
    running, failed = output.splitlines()
    assert running == MARK
    assert failed.startswith("RevisionFailed: revision failing, Made by a test failed and was rolled back: ")
    assert failed.endswith("_failing.py:" + failed.rpartition(":")[2])
    assert "secret-word" not in output
    assert "Traceback" not in output
    assert evidence.outcomes(ledger_url, FAILING.id) == ["failed"]
    assert evidence.versions(ledger_url) == [project.head()]


def test_the_command_fails_with_the_instance_that_it_waited_for(ledger_url: str, ini: Path) -> None:
    """`upgrade` waits for an instance whose revision fails: it exits with that error and does not run it again."""
    with fleet(1, ledger_url, ini=ini, MIGRATION_ON_FAILURE="hold") as instances:
        until_one_migrates(instances)
        with start_migrate("upgrade", url=ledger_url, ini=ini) as upgrade:
            wait_until(lambda: len(evidence.sessions(ledger_url)) == 2, "two sessions", seconds=60)
            evidence.let_go(ledger_url)
            output, _ = upgrade.communicate(timeout=FOREVER_SECONDS)
    assert upgrade.returncode == 1, output
    assert "AlreadyFailed: revision failing" in output
    assert "on instance api-1" in output
    assert_one_attempt(ledger_url)


def test_a_run_that_times_out_fails_for_all_instances(ledger_url: str, tmp_path: Path) -> None:
    """A run exceeds MIGRATION_RUN_SECONDS: it is rolled back and recorded, and the waiters fail without a retry."""
    ini, limit = project.make_history(tmp_path, project.slow("endless", 300)), f"{scaled(8):g}"
    with fleet(3, ledger_url, ini=ini, MIGRATION_ON_FAILURE="hold", MIGRATION_RUN_SECONDS=limit) as instances:
        until_phase(instances, "failed")
        messages = [instance.health()["message"] for instance in instances]
        assert all("revision endless was cancelled and rolled back" in message for message in messages), messages
        assert all(f"MIGRATION_RUN_SECONDS={limit}" in message for message in messages), messages
        assert sum(instance.log().count(MARK) for instance in instances) == 1
    assert evidence.outcomes(ledger_url, "endless") == ["failed"]
    assert evidence.versions(ledger_url) == [project.head()]
    assert evidence.marks(ledger_url) == []
    wait_until(lambda: evidence.advisory_locks(ledger_url) == 0, "a free lock", seconds=30)


def test_a_half_applied_revision_stops_all_instances(ledger_url: str, tmp_path: Path) -> None:
    """A revision commits a part and raises: the part stays, and neither waiters nor the next start run it again."""
    ini = project.make_history(tmp_path, project.held(), project.half_applied(then="raise RuntimeError('half way')"))
    with fleet(3, ledger_url, ini=ini, MIGRATION_ON_FAILURE="hold") as instances:
        until_all_have_looked(instances)
        evidence.let_go(ledger_url)
        until_phase(instances, "failed")
        assert all("revision half" in instance.health()["message"] for instance in instances)
        assert sum(instance.log().count(MARK) for instance in instances) == 1
    with fleet(1, ledger_url, ini=ini) as (again,):
        assert again.wait() == 143
        assert "committed a part of its work and did not finish" in again.log()
    assert evidence.outcomes(ledger_url, "half") == ["half_applied"]
    assert evidence.marks(ledger_url) == ["half", "held"]
    assert evidence.versions(ledger_url) == ["held"]
