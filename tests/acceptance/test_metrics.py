"""`/metrics` of real instances is correct during and after a migration, and shows the failures of earlier instances."""

import logging
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from api.migrations.core.status import Status
from api.migrations.web.metrics import MigrationCollector
from tests.support import evidence, project
from tests.support.fleet import MARK, Instance, fleet, until_all_ready, until_one_migrates, until_phase
from tests.support.servers import fetch_sync, program
from tests.support.waiting import FOREVER_SECONDS, wait_until

pytestmark = pytest.mark.acceptance

log = logging.getLogger(__name__)

FAILING = project.failing()


class Scrape:
    """The metrics that one instance exports at one moment."""

    def __init__(self, instance: Instance) -> None:
        answer = instance.get("/metrics")
        assert answer.status_code == 200
        self.text = answer.text
        families = list(text_string_to_metric_families(self.text))
        self._samples = [sample for family in families for sample in family.samples]

    def __call__(self, name: str, **labels: str) -> float:
        """Return the value of `migration_<name>`."""
        ((value),) = [s.value for s in self._samples if s.name == f"migration_{name}" and s.labels == labels]
        return value

    def info(self) -> dict[str, str]:
        """Return the labels of `migration_info`."""
        ((labels),) = [sample.labels for sample in self._samples if sample.name == "migration_info"]
        return labels

    def names(self) -> set[str]:
        """Return the names of all samples."""
        return {sample.name for sample in self._samples}


def scrape(instances: Sequence[Instance]) -> list[Scrape]:
    """Scrape every instance."""
    return [Scrape(instance) for instance in instances]


def values(scrapes: Sequence[Scrape], name: str, **labels: str) -> list[float]:
    """Return the value of one metric in each scrape."""
    return [each(name, **labels) for each in scrapes]


def moment(url: str, outcome: str) -> float:
    """Return when the newest attempt with that outcome ended, in seconds since the epoch."""
    sql = f"SELECT extract(epoch FROM max(finished_at))::float8 FROM {evidence.HISTORY} WHERE outcome = $1"
    seconds: float = fetch_sync(url, sql, outcome)[0][0]
    return seconds


def test_metrics_show_a_fleet_during_and_after_its_migration(ledger_url: str, tmp_path: Path) -> None:
    """Three instances: only the lock holder has lock_held=1, all show the run, and afterwards its success."""
    ini = project.make_history(tmp_path, project.held(), project.quick())
    before = moment(ledger_url, "applied")
    with fleet(3, ledger_url, ini=ini, MIGRATION_WAIT_SECONDS="900") as instances:
        holder = until_one_migrates(instances)
        others = [instance for instance in instances if instance is not holder]
        until_phase(others, "waiting")
        everybody_sees = lambda: values(scrape(instances), "in_progress") == [1, 1, 1]  # noqa: E731 - a condition
        wait_until(everybody_sees, "three that see the run", seconds=30)
        wait_until(lambda: "held" in evidence.running(ledger_url), "the held revision", seconds=30)
        seen = scrape(instances)
        assert values(seen, "lock_held") == [float(instance is holder) for instance in instances]
        assert values(seen, "pending_revisions") == [2, 2, 2]
        assert values(seen, "ready") == values(seen, "up_to_date") == [0, 0, 0]
        assert values(seen, "schema_state", state="behind") == [1, 1, 1]
        assert values(seen, "last_success_timestamp_seconds") == pytest.approx([before] * 3, abs=0.001)
        assert all(each("run_seconds") > 0 for each in seen)
        assert all((Scrape(one)("lock_wait_seconds") > 0) is (one is not holder) for one in instances)
        assert values(seen, "wait_budget_seconds") == [900, 900, 900]
        assert values(seen, "run_budget_seconds") == [300, 300, 300]
        ends = {one.name: Scrape(one)("deadline_timestamp_seconds") - time.time() for one in instances}
        assert all((left < 300) is (name == holder.name) for name, left in ends.items())
        assert all(each.info()["database_revisions"] == project.head() for each in seen)
        evidence.let_go(ledger_url)
        until_all_ready(instances)
        done = scrape(instances)
        # lock holder and waiters have all read the history after the last commit
        last = pytest.approx([moment(ledger_url, "applied")] * 3, abs=0.001)
        assert values(done, "last_success_timestamp_seconds") == last
        assert values(done, "last_failure_timestamp_seconds") == [0, 0, 0]
        assert values(done, "ready") == values(done, "up_to_date") == [1, 1, 1]
        assert values(done, "lock_held") == values(done, "in_progress") == values(done, "pending_revisions") == [0] * 3
        (migrator,) = (one for one in instances if MARK in one.log())
        mine = [float(one is migrator) for one in instances]
        assert values(done, "runs_total", result="applied") == mine
        assert values(done, "revision_duration_seconds_count") == [2 * each for each in mine]
        assert [each.info()["instance_name"] for each in done] == [one.name for one in instances]
        assert not any("migration_deadline_timestamp_seconds" in each.names() for each in done)
        log.info("a scrape: %d bytes, %d names", len(done[0].text), len(done[0].names()))


def test_metrics_show_the_failure_of_an_instance_that_exited(ledger_url: str, tmp_path: Path) -> None:
    """One instance fails and exits: the next one shows when, and a third shows the success that follows."""
    ini = project.make_history(tmp_path, FAILING)
    with fleet(1, ledger_url, ini=ini) as (dies,):
        assert dies.wait() == 143
    failed = moment(ledger_url, "failed")
    with fleet(1, ledger_url, ini=ini, first=2, MIGRATION_STRATEGY="job") as (second,):
        until_phase([second], "waiting")
        seen = Scrape(second)
        assert seen("last_failure_timestamp_seconds") == pytest.approx(failed, abs=0.001)
        assert seen("last_failure_timestamp_seconds") > seen("last_success_timestamp_seconds") > 0
        assert (seen("pending_revisions"), seen("in_progress"), seen("up_to_date")) == (1, 0, 0)
    assert evidence.outcomes(ledger_url, FAILING.id) == ["failed"]
    mended = project.quick(FAILING.id)
    project.revision_file(ini, mended).write_text(mended.source(project.head()))
    with fleet(1, ledger_url, ini=ini, first=3) as (third,):
        until_all_ready([third])
        done = Scrape(third)
        assert done("last_failure_timestamp_seconds") == pytest.approx(failed, abs=0.001)
        assert done("last_success_timestamp_seconds") > failed


def test_metrics_count_the_failure_of_an_instance_on_hold(ledger_url: str, tmp_path: Path) -> None:
    """With MIGRATION_ON_FAILURE=hold a failed run raises runs_total from 0 to 1, and run_seconds stops growing."""
    ini = project.make_history(tmp_path, project.held(), FAILING)
    with fleet(1, ledger_url, ini=ini, MIGRATION_ON_FAILURE="hold") as (one,):
        until_one_migrates([one])
        assert Scrape(one)("runs_total", result="failed") == 0
        evidence.let_go(ledger_url)
        until_phase([one], "failed")
        seen, again = Scrape(one), Scrape(one)
        assert (seen("runs_total", result="failed"), seen("runs_total", result="applied")) == (1, 0)
        assert seen("phase", phase="failed") == 1
        assert seen("last_failure_timestamp_seconds") > moment(ledger_url, "applied")
        assert seen("run_seconds") == again("run_seconds") > 0
        assert "secret-word" not in seen.text


def test_promtool_accepts_the_metrics(ledger_url: str) -> None:
    """The metrics of a real instance pass promtool without a remark, and their names are those of the collector."""
    tool = program("promtool", "apt-get install --no-install-recommends prometheus")
    with fleet(1, ledger_url) as instances:
        until_all_ready(instances)
        seen = Scrape(instances[0])
    done = subprocess.run(
        [tool, "check", "metrics"], input=seen.text, capture_output=True, text=True, timeout=FOREVER_SECONDS
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert seen.names() == {s.name for family in MigrationCollector(Status).collect() for s in family.samples}
