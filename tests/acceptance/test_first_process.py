"""An instance that is process 1, as in a container: the kernel ignores signals whose action is the default one."""

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
def first(url: str, ini: Path) -> Iterator[Instance]:
    """An instance that is process 1 of a namespace of its own."""
    if subprocess.run([*FIRST, "true"], capture_output=True).returncode:
        optional("a pid namespace", "run as root, apt-get install util-linux")
    with fleet(1, url, ini=ini, inside=FIRST) as (instance,):
        yield instance


def stop(instance: Instance) -> None:
    """What `docker stop` does."""
    (server,) = psutil.Process(instance.process.pid).children()
    server.send_signal(signal.SIGTERM)


def assert_orderly(instance: Instance) -> None:
    """Its server has shut down in order, without a traceback."""
    lines = [line.partition("INFO:")[2].strip() for line in instance.log().splitlines()]
    assert [line for line in lines if line.startswith(tuple(ORDERLY))][:3] == ORDERLY[:3]
    assert "Finished server process [1]" in lines
    assert "Traceback" not in instance.log()


def test_a_failed_start_is_a_failure(ledger_url: str, tmp_path: Path) -> None:
    """The exit code is 3 where elsewhere it is 143; the revision is rolled back and recorded, the lock is free."""
    with first(ledger_url, project.make_history(tmp_path, project.failing())) as instance:
        assert instance.wait() == 3
        assert "Not ready: revision failing" in instance.log()
        assert_orderly(instance)
    assert evidence.outcomes(ledger_url, "failing") == ["failed"]
    assert evidence.marks(ledger_url) == []
    wait_until(lambda: evidence.sessions(ledger_url) == [], "no session", seconds=WAIT_SECONDS)
    assert evidence.advisory_locks(ledger_url) == 0


@pytest.mark.parametrize("until", [until_all_ready, until_one_migrates], ids=["ready", "migrating"])
def test_a_stop_is_no_failure(ledger_url: str, tmp_path: Path, until: Callable[[list[Instance]], object]) -> None:
    """The server ends with its own exit code 0, whether the instance serves or still migrates; nothing is half done."""
    extra = [project.held()] if until is until_one_migrates else []
    with first(ledger_url, project.make_history(tmp_path, *extra)) as instance:
        until([instance])
        stop(instance)
        assert instance.wait() == 0
        assert_orderly(instance)
    assert evidence.versions(ledger_url) == [project.head()]
    wait_until(lambda: evidence.advisory_locks(ledger_url) == 0, "a free lock", seconds=WAIT_SECONDS)
