"""An instance is process 1, as in a container, where the kernel ignores a signal whose action is the default."""

import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.support import evidence, project
from tests.support.fleet import WAIT_SECONDS, Instance, fleet, until_all_ready, until_one_migrates
from tests.support.servers import optional
from tests.support.waiting import wait_until

pytestmark = pytest.mark.acceptance

FIRST = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]

ORDERLY = [
    "Shutting down",
    "Waiting for application shutdown.",
    "Application shutdown complete.",
    "Finished server process",
]


@contextmanager
def first(url: str, ini: Path, drain_seconds: float) -> Iterator[Instance]:
    """Start an instance as process 1 of its own pid namespace, with this MIGRATION_DRAIN_SECONDS."""
    if subprocess.run([*FIRST, "true"], capture_output=True).returncode:
        optional("a pid namespace", "run as root, apt-get install util-linux")
    with fleet(1, url, ini=ini, inside=FIRST, MIGRATION_DRAIN_SECONDS=f"{drain_seconds}") as (instance,):
        yield instance


def stop(instance: Instance) -> None:
    """Send SIGTERM to the server, as `docker stop` does."""
    (server,) = psutil.Process(instance.process.pid).children()
    server.send_signal(signal.SIGTERM)


def assert_orderly(instance: Instance) -> None:
    """Assert that the server shut down in order, without a traceback."""
    lines = [line.partition("INFO:")[2].strip() for line in instance.log().splitlines()]
    assert [line for line in lines if line.startswith(tuple(ORDERLY))][:3] == ORDERLY[:3]
    assert "Finished server process [1]" in lines
    assert "Traceback" not in instance.log()


def test_a_failed_start_of_process_1_exits_with_3(ledger_url: str, tmp_path: Path) -> None:
    """A revision fails in process 1: it is rolled back and recorded, and the instance exits with 3 instead of 143."""
    ini = project.make_history(tmp_path, project.failing())
    # only an instance that was ready drains
    with first(ledger_url, ini, drain_seconds=3600) as instance:
        assert instance.wait() == 3
        assert "Not ready: revision failing" in instance.log()
        assert_orderly(instance)
    assert evidence.outcomes(ledger_url, "failing") == ["failed"]
    assert evidence.marks(ledger_url) == []
    wait_until(lambda: evidence.sessions(ledger_url) == [], "no session", seconds=WAIT_SECONDS)
    assert evidence.advisory_locks(ledger_url) == 0


@pytest.mark.parametrize("until", [until_all_ready, until_one_migrates], ids=["ready", "migrating"])
def test_process_1_stops_cleanly(ledger_url: str, tmp_path: Path, until: Callable[[list[Instance]], object]) -> None:
    """SIGTERM reaches process 1 while it serves or migrates: it shuts down, exits with 0 and frees the lock.

    It drains before, but only if it serves.
    """
    extra = [project.held()] if until is until_one_migrates else []
    with first(ledger_url, project.make_history(tmp_path, *extra), drain_seconds=0.1) as instance:
        until([instance])
        stop(instance)
        assert instance.wait() == 0
        assert ("serves for 0.1 s and then shuts down" in instance.log()) is (until is until_all_ready)
        assert_orderly(instance)
    assert evidence.versions(ledger_url) == [project.head()]
    wait_until(lambda: evidence.advisory_locks(ledger_url) == 0, "a free lock", seconds=WAIT_SECONDS)
