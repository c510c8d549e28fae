"""The primary crashes during a migration and its standby is promoted: an instance continues there, nothing runs twice.

Replication is synchronous, so that no commit is lost. The log shows how long it took (`--log-cli-level=INFO`).
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
    """Start a primary and its synchronous standby."""
    with embedded_postgres(REPLICATION, **DURABLE) as primary, standby_of(primary) as standby:
        make_synchronous(primary)
        yield primary, standby


def either(pair: Pair, database: str) -> str:
    """Return a URL that names both servers and connects to the primary."""
    hosts = ",".join(f"{server.host}:{server.port}" for server in pair)
    return f"postgresql://postgres@{hosts}/{database}?target_session_attrs=read-write"


def test_a_migration_continues_on_the_promoted_standby(pair: Pair, tmp_path: Path) -> None:
    """The primary crashes during a revision, and lock and transaction with it: an instance retries on the standby."""
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
    """Listen on a port and never answer, as a frozen host does."""
    with socket.create_server((HOST, 0)) as mute:
        yield mute.getsockname()[1]


def test_an_instance_skips_a_host_that_never_answers(server: Server, database_url: str, mute_port: int) -> None:
    """The first host of the URL accepts and never answers: the instance connects to the next one and migrates."""
    hosts = database_url.replace(f"@{server.host}", f"@{HOST}:{mute_port},{server.host}")
    url = f"{hosts}?target_session_attrs=read-write&connect_timeout=2"
    began = time.monotonic()
    with fleet(1, url) as instances:
        until_all_ready(instances)
        log.info("ready after %.1f s, behind a host that never answers", time.monotonic() - began)
        assert "Traceback" not in instances[0].log()
    assert evidence.versions(database_url) == [project.head()]
