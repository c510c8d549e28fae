"""A revision always fails, or kills its process, while a supervisor restarts each instance: attempts are spaced."""

import logging
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support import evidence, project
from tests.support.fleet import Instance, fleet, migrate, until_all_ready, until_phase
from tests.support.waiting import wait_until

pytestmark = pytest.mark.acceptance

log = logging.getLogger(__name__)

# the revision fails until an operator corrects the data: here, until `let_go`
POISON = project.Revision("poison", f"mark()\nassert op.get_bind().scalar({project.GATE}), 'the data is not fit'")
DEADLY = project.Revision("deadly", "import os\nmark()\nos.kill(os.getpid(), 9)")
FAILURES = 7
PAUSED = re.compile(r"no session holds the lock; waited \d+ s; the next attempt is in \d+ s; ")


def until_paused(instances: Sequence[Instance], why: str) -> None:
    """Wait until each instance says that it pauses before the next attempt, and why."""

    def paused() -> bool:
        messages = [instance.health().get("message") or "" for instance in instances]
        return all(PAUSED.search(message) and why in message for message in messages)

    until_phase(instances, "waiting")
    wait_until(paused, f"{len(instances)} that wait for the next try", seconds=60)


def until_all_know(instances: Sequence[Instance]) -> None:
    """Wait until one instance is in the held revision and all others know that."""

    def know() -> bool:
        healths = [instance.health() for instance in instances]
        return all(h and h["progress"]["current"] == "held" and h["lock"]["holder"] for h in healths)

    wait_until(know, "instances that see the held revision", seconds=60)


@pytest.fixture
def poisoned(ledger_url: str, tmp_path: Path) -> Path:
    """Create a history whose last revision has failed seven times, the last time a moment ago."""
    ini = project.make_history(tmp_path, POISON)
    code, output = migrate("upgrade", url=ledger_url, ini=ini)
    assert (code, "the data is not fit" in output) == (1, True), output
    evidence.repeat_first(ledger_url, POISON.id, FAILURES)
    return ini


def test_restarts_do_not_multiply_the_attempts(ledger_url: str, tmp_path: Path) -> None:
    """Two instances are started three times: a failing revision is attempted only when it is due, twice in all."""
    ini = project.make_history(tmp_path, project.held(), project.failing())
    with fleet(2, ledger_url, ini=ini) as instances:
        until_all_know(instances)
        evidence.let_go(ledger_url)
        assert [instance.wait() for instance in instances] == [143, 143]
    assert evidence.outcomes(ledger_url, "failing") == ["failed"]
    evidence.end_now(ledger_url)
    with fleet(2, ledger_url, ini=ini) as instances:
        until_paused(instances, "the last attempt failed: revision failing")
        assert [instance.get("/health/live").status_code for instance in instances] == [200, 200]
        assert [instance.get("/health/ready").status_code for instance in instances] == [503, 503]
        assert evidence.outcomes(ledger_url, "failing") == ["failed"]
        assert [instance.wait() for instance in instances] == [143, 143]
    assert evidence.outcomes(ledger_url, "failing") == ["failed", "failed"]
    evidence.end_now(ledger_url)
    with fleet(2, ledger_url, ini=ini) as instances:
        until_paused(instances, "the last attempt failed: revision failing")
        attempts = evidence.outcomes(ledger_url, "failing")
        log.info("%d attempts of one release in 6 starts", len(attempts))
        assert attempts == ["failed", "failed"]
        assert evidence.advisory_locks(ledger_url) == 0


def test_a_changed_revision_is_attempted_at_once(ledger_url: str, poisoned: Path) -> None:
    """A new build corrects the failing revision: its instances apply it without the pause of the build before."""
    mended = project.quick(POISON.id)
    project.revision_file(poisoned, mended).write_text(mended.source(project.revisions()[-1]))
    with fleet(2, ledger_url, ini=poisoned) as instances:
        until_all_ready(instances)
        assert not any("the next attempt is in" in instance.log() for instance in instances)
    assert evidence.outcomes(ledger_url, POISON.id) == ["failed"] * FAILURES + ["applied"]


def test_an_upgrade_by_an_operator_ignores_the_pause(ledger_url: str, poisoned: Path) -> None:
    """The instances pause and the data is corrected: `./migrate.sh upgrade` runs at once, and they become ready."""
    with fleet(2, ledger_url, ini=poisoned, MIGRATION_SHOW_ERRORS="true") as instances:
        until_paused(instances, "the data is not fit")
        evidence.let_go(ledger_url)
        code, output = migrate("upgrade", url=ledger_url, ini=poisoned)
        assert (code, "the next attempt is in" in output) == (0, False), output
        until_all_ready(instances)
    rows = evidence.history(ledger_url, extra_only=True)
    assert [row["outcome"] for row in rows] == ["failed"] * FAILURES + ["applied"]
    assert rows[-1]["instance"] not in {"api-1", "api-2"}


def test_each_upgrade_by_an_operator_is_an_attempt(ledger_url: str, poisoned: Path) -> None:
    """The data is still wrong: each `./migrate.sh upgrade` attempts the revision at once and exits with 1."""
    for _ in range(2):
        code, output = migrate("upgrade", url=ledger_url, ini=poisoned)
        assert (code, "the next attempt is in" in output) == (1, False), output
    assert evidence.outcomes(ledger_url, POISON.id) == ["failed"] * (FAILURES + 2)


def test_a_revision_that_kills_its_process_is_counted(ledger_url: str, tmp_path: Path) -> None:
    """A revision kills its process: each attempt is recorded before it runs, and after several the instances pause."""
    ini = project.make_history(tmp_path, DEADLY)
    for expected in (["running"], ["interrupted", "running"]):
        with fleet(1, ledger_url, ini=ini) as (victim,):
            assert victim.wait() == 137
        assert evidence.outcomes(ledger_url, DEADLY.id) == expected
    evidence.repeat_first(ledger_url, DEADLY.id, FAILURES)
    with fleet(2, ledger_url, ini=ini) as instances:
        until_paused(instances, "the processes of the last attempts died or lost the connection")
        assert evidence.outcomes(ledger_url, DEADLY.id) == ["interrupted"] * FAILURES + ["running"]
    assert evidence.marks(ledger_url) == []
