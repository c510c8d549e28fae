"""A run is interrupted from outside in each of its phases: it leaves nothing behind and says what interrupted it."""

import itertools
import logging
import signal
import time
from pathlib import Path

import pytest

from tests.acceptance import phases
from tests.acceptance.phases import PHASES, Phase, in_autocommit
from tests.support import evidence, project
from tests.support.fleet import WAIT_SECONDS, finish, fleet, migrate, start_alembic, start_migrate
from tests.support.servers import fetch_sync
from tests.support.waiting import wait_until

pytestmark = pytest.mark.acceptance

log = logging.getLogger(__name__)

EVERYWHERE = pytest.mark.parametrize("phase", PHASES.values(), ids=PHASES)
# both signals run the same code, so SIGINT only in the phases in which a person presses Ctrl-C
SIGNALS = [(name, signal.SIGTERM) for name in PHASES]
SIGNALS += [(name, signal.SIGINT) for name in ("sent away", "waiting", "pausing", "statement", "python")]
INSTANCE = ("sent away", "pausing", "statement", "python", "autocommit", "committing", "verifying")
LIMIT = f"{phases.BUDGET_SECONDS:g}"
BUDGET = {"MIGRATION_RUN_SECONDS": LIMIT, "MIGRATION_WAIT_SECONDS": LIMIT}
OVER = f"SELECT clock_timestamp() - started_at > '{LIMIT} s' FROM {evidence.HISTORY} WHERE outcome = 'running'"


def in_short(outcomes: list[str]) -> tuple[str, ...]:
    """Return the outcomes with consecutive repetitions removed."""
    return tuple(outcome for outcome, _ in itertools.groupby(outcomes))


def assert_clean(url: str, phase: Phase, outcomes: tuple[str, ...]) -> None:
    """Assert that no session or lock is left, and that version table, history and marks agree."""
    wait_until(lambda: evidence.sessions(url) == [], "every session gone", seconds=WAIT_SECONDS)
    wait_until(lambda: evidence.advisory_locks(url) == 0, "no lock left", seconds=WAIT_SECONDS)
    there = phase.revision in evidence.versions(url)
    assert in_short(evidence.outcomes(url, phase.revision)) == outcomes
    assert there is ("applied" in outcomes)
    assert (phase.revision in evidence.marks(url)) is (there or phase.stays)
    assert evidence.applied(url) == project.revisions() + [phase.revision] * there


@pytest.mark.parametrize(("name", "number"), SIGNALS, ids=[f"{name}-{number.name}" for name, number in SIGNALS])
async def test_a_signal_stops_the_command(ledger_url: str, tmp_path: Path, name: str, number: signal.Signals) -> None:
    """A signal reaches `upgrade` in one phase: it exits with 128 + n, names the signal, and leaves nothing behind."""
    phase = PHASES[name]
    async with phase.hold(ledger_url, tmp_path) as stage:
        with start_migrate("upgrade", url=stage.url, ini=stage.ini) as upgrade:
            wait_until(stage.reached, "the phase", seconds=WAIT_SECONDS)
            upgrade.send_signal(number)
            sent = time.monotonic()
            code, output = finish(upgrade, seconds=WAIT_SECONDS)
            log.info("ended %.2f s after %s", time.monotonic() - sent, number.name)
        wait_until(lambda: evidence.sessions(ledger_url) == [], "every session gone", seconds=WAIT_SECONDS)
        log.info("and its session after %.2f s", time.monotonic() - sent)
    assert code == 128 + number, output
    assert f"stopped by {number.name}" in output
    assert "Traceback" not in output
    assert_clean(ledger_url, phase, phase.cancelled)


@pytest.mark.parametrize(
    ("name", "number"), [("waiting", signal.SIGTERM), ("statement", signal.SIGINT), ("python", signal.SIGTERM)]
)
async def test_a_signal_stops_alembic_typed_by_hand(
    ledger_url: str, tmp_path: Path, name: str, number: signal.Signals
) -> None:
    """A signal reaches `alembic upgrade head` with run_env: the exit code and the last line are those of `upgrade`."""
    phase = PHASES[name]
    async with phase.hold(ledger_url, tmp_path) as stage:
        with start_alembic("upgrade", "head", url=stage.url, ini=stage.ini) as upgrade:
            wait_until(stage.reached, "the phase", seconds=WAIT_SECONDS)
            upgrade.send_signal(number)
            code, output = finish(upgrade, seconds=WAIT_SECONDS)
    assert code == 128 + number, output
    assert f"Cancelled: stopped by {number.name}; " in output.splitlines()[-1]
    assert "Traceback" not in output
    assert_clean(ledger_url, phase, phase.cancelled)


@EVERYWHERE
async def test_a_timeout_stops_the_command(ledger_url: str, tmp_path: Path, phase: Phase) -> None:
    """`upgrade` runs out of time in one phase: it names the setting that ended it, and keeps what is committed."""
    async with phase.hold(ledger_url, tmp_path) as stage:
        with start_migrate("upgrade", url=stage.url, ini=stage.ini, **BUDGET) as upgrade:
            wait_until(stage.reached, "the phase", seconds=WAIT_SECONDS)
            wait_until(lambda: over(ledger_url), "the end of the budget", seconds=WAIT_SECONDS)
            stage.late()
            code, output = finish(upgrade, seconds=WAIT_SECONDS)
    assert code == phase.late_code, output
    waited = code in {4, 5} and "failed" not in phase.late
    assert (f"MIGRATION_WAIT_SECONDS={LIMIT}" if waited else f"MIGRATION_RUN_SECONDS={LIMIT}") in output
    assert ("rolled back" in output) is (phase.late[-1:] == ("failed",))
    assert "Traceback" not in output
    assert_clean(ledger_url, phase, phase.late)
    if "failed" in phase.late:
        error = evidence.history(ledger_url, extra_only=True)[-1]["error"]
        assert f"MIGRATION_RUN_SECONDS={LIMIT}" in error, "those who waited read it there, and do not run it again"


def over(url: str) -> bool:
    """Return whether every running attempt has used up its time budget."""
    return all(row[0] for row in fetch_sync(url, OVER))


@EVERYWHERE
async def test_the_command_survives_a_lost_connection(ledger_url: str, tmp_path: Path, phase: Phase) -> None:
    """`upgrade` loses its connection in one phase: it connects again and succeeds, and nothing is applied twice."""
    async with phase.hold(ledger_url, tmp_path) as stage:
        with start_migrate("upgrade", url=stage.url, ini=stage.ini) as upgrade:
            wait_until(stage.reached, "the phase", seconds=WAIT_SECONDS)
            stage.lose()
            code, output = finish(upgrade, seconds=2 * WAIT_SECONDS)
    assert code == 0, output
    assert "Traceback" not in output
    assert_clean(ledger_url, phase, phase.regained)
    assert evidence.marks(ledger_url).count(phase.revision) == 1


@pytest.mark.parametrize("cause", ["SIGTERM", "lost"])
async def test_an_interrupted_autocommit_block_is_half_applied(ledger_url: str, tmp_path: Path, cause: str) -> None:
    """An interrupted autocommit_block is never called rolled back; the next `upgrade` exits with 7 and refuses it."""
    phase = PHASES["autocommit"]
    async with in_autocommit(ledger_url, tmp_path, idempotent=False) as stage:
        with start_migrate("upgrade", url=stage.url, ini=stage.ini) as upgrade:
            wait_until(stage.reached, "the phase", seconds=WAIT_SECONDS)
            stage.lose() if cause == "lost" else upgrade.send_signal(signal.SIGTERM)
            code, output = finish(upgrade, seconds=WAIT_SECONDS)
    assert code == (7 if cause == "lost" else 143), output
    assert "revision was rolled back" not in output
    assert_clean(ledger_url, phase, phase.cancelled)
    code, output = migrate("upgrade", url=ledger_url, ini=stage.ini)
    assert (code, "revision held committed a part of its work" in output) == (7, True), output


@pytest.mark.parametrize("name", INSTANCE)
async def test_sigterm_stops_an_instance(ledger_url: str, tmp_path: Path, name: str) -> None:
    """SIGTERM reaches a migrating instance in one phase: it exits with 143 and leaves no session, lock or traceback.

    It does not drain: only a ready instance does.
    """
    phase = PHASES[name]
    async with phase.hold(ledger_url, tmp_path) as stage:
        with fleet(1, stage.url, ini=stage.ini, MIGRATION_DRAIN_SECONDS="3600") as (instance,):
            instance.until(stage.reached, "is in the phase")
            instance.kill(signal.SIGTERM)
            sent = time.monotonic()
            assert instance.wait() == 143
            log.info("ended %.2f s after SIGTERM", time.monotonic() - sent)
            assert "Traceback" not in instance.log()
        wait_until(lambda: evidence.sessions(ledger_url) == [], "every session gone", seconds=WAIT_SECONDS)
    assert_clean(ledger_url, phase, phase.cancelled)


async def test_a_waiter_times_out_and_never_serves(ledger_url: str, tmp_path: Path) -> None:
    """Another session holds the lock past MIGRATION_WAIT_SECONDS: the waiter exits with 143 and names the setting."""
    phase = PHASES["waiting"]
    async with phase.hold(ledger_url, tmp_path) as stage:
        with fleet(1, stage.url, ini=stage.ini, first=1, **BUDGET) as (instance,):
            assert instance.wait() == 143
            assert f"Not ready: timed out after MIGRATION_WAIT_SECONDS={LIMIT}" in instance.log()
            assert "Traceback" not in instance.log()
    assert_clean(ledger_url, phase, phase.late)
