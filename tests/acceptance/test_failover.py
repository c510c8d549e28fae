"""The primary crashes in mid-migration and its standby takes over: somebody goes on there, and nothing is done twice.

Replication is synchronous, so that what was committed is not lost. How long it took goes to the log
(`--log-cli-level=INFO`).
"""

import logging
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from devtools.ports import HOST
from tests.support import evidence, project
from tests.support.fleet import fleet, until_all_ready, until_one_migrates, until_phase
from tests.support.servers import Server, embedded_postgres
from tests.support.standby import DURABLE, REPLICATION, make_synchronous, standby_of
from tests.support.waiting import wait_until

pytestmark = pytest.mark.acceptance

log = logging.getLogger(__name__)

Pair = tuple[Server, Server]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """A primary and its synchronous standby."""
    with embedded_postgres(REPLICATION, **DURABLE) as primary, standby_of(primary) as standby:
        make_synchronous(primary)
        yield primary, standby


def either(pair: Pair, database: str) -> str:
    """The URL of whichever of the two is the primary."""
    hosts = ",".join(f"{server.host}:{server.port}" for server in pair)
    return f"postgresql://postgres@{hosts}/{database}?target_session_attrs=read-write"


def test_the_primary_crashes_and_the_standby_is_promoted(pair: Pair, tmp_path: Path) -> None:
    """Lock and open transaction died with the primary; the new one shows how far it came."""
    primary, standby = pair
    assert primary.process is not None
    ini = project.make_history(tmp_path, project.quick(), project.held(), project.quick("after"))
    primary.execute("CREATE DATABASE moved")
    there = standby.url("moved")
    with fleet(3, either(pair, "moved"), ini=ini) as instances:
        migrator = until_one_migrates(instances)
        until_phase([instance for instance in instances if instance is not migrator], "waiting")
        wait_until(lambda: evidence.running(primary.url("moved")) == ["held"], "the held revision", seconds=60)
        primary.process.stop("immediate")
        standby.execute("SELECT pg_promote()")
        began = time.monotonic()
        again = ["interrupted", "running"]
        wait_until(lambda: evidence.outcomes(there, "held") == again, "a second attempt", seconds=60)
        log.info("somebody went on %.1f s after the promotion", time.monotonic() - began)
        evidence.let_go(there)
        until_all_ready(instances)
        assert not any("Traceback" in instance.log() for instance in instances)
    assert evidence.applied(there) == project.revisions(ini)
    assert evidence.versions(there) == ["after"]
    assert evidence.marks(there) == ["after", "held", "quick"]
    assert evidence.advisory_locks(there) == 0


@pytest.fixture
def mute_port() -> Iterator[int]:
    """Somebody listens there and never says a word, as a frozen host does."""
    with socket.create_server((HOST, 0)) as mute:
        yield mute.getsockname()[1]


def test_the_first_host_never_answers(server: Server, database_url: str, mute_port: int) -> None:
    """A primary that is frozen rather than gone: the next host of the URL is asked all the same."""
    hosts = database_url.replace(f"@{server.host}", f"@{HOST}:{mute_port},{server.host}")
    url = f"{hosts}?target_session_attrs=read-write&connect_timeout=2"
    began = time.monotonic()
    with fleet(1, url) as instances:
        until_all_ready(instances)
        log.info("ready after %.1f s, behind a host that never answers", time.monotonic() - began)
        assert "Traceback" not in instances[0].log()
    assert evidence.versions(database_url) == [project.head()]
