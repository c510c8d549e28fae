"""A host vanishes, and no packet tells the other end: server and clients detect it by themselves, in seconds.

The idle limit is off, so that only the keepalives can detect it. The log shows how long it took
(`--log-cli-level=INFO`); with the defaults a server takes 7200 s + 9 × 75 s, and a client never detects it.
"""

import logging
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest

from tests.acceptance import holders
from tests.support import evidence, project
from tests.support.fleet import Instance, command, finish, fleet
from tests.support.pace import scaled
from tests.support.servers import Server, embedded_postgres
from tests.support.vanishing import Namespace, namespace
from tests.support.waiting import wait_until

pytestmark = pytest.mark.acceptance

log = logging.getLogger(__name__)

BOUND_SECONDS = scaled(90)
"""Keepalives 5 + 5 × 3 s, tcp_user_timeout 15 s, client_connection_check_interval 1 s, and two busy cores."""

UPGRADE = (sys.executable, "-m", "api.migrations", "upgrade")

_numbers = count(1)


@pytest.fixture(scope="module")
def host() -> Iterator[Namespace]:
    """Create the host that will vanish."""
    with namespace() as made:
        yield made


@pytest.fixture(scope="module")
def served(host: Namespace) -> Iterator[Server]:
    """Start a server that listens on the host's network as well."""
    access = f"host all postgres {host.network} trust\n"
    with embedded_postgres(access, listen_addresses=f"127.0.0.1,{host.gateway}") as started:
        yield started


@pytest.fixture
def url(served: Server) -> Iterator[str]:
    """Create an empty database; its URL has the server's address on this machine."""
    with served.database(f"vanished_{next(_numbers)}") as made:
        yield made


@contextmanager
def upgrade_on_a_vanishing_host(
    host: Namespace, url: str, ini: Path, inside: Callable[[], bool]
) -> "Iterator[subprocess.Popen[str]]":
    """Run an upgrade whose host vanishes when it is `inside` the revision, until a successor has finished."""
    settings = {"MIGRATION_IDLE_SECONDS": "0", "MIGRATION_ALEMBIC_CONFIG": str(ini)}
    with command(host.inside(*UPGRADE), host.there(url), MIGRATION_INSTANCE="vanished", **settings) as vanished:
        wait_until(inside, "one that migrates", seconds=60)
        (pid,) = holders.pids(url)
        evidence.let_go(url)
        with command(UPGRADE, url, MIGRATION_INSTANCE="successor", **settings) as successor:
            wait_until(lambda: ":waiting:successor" in str(evidence.sessions(url)), "one that waits", seconds=60)
            with host.vanished():
                until_the_server_knows(url, pid)
                code, output = finish(successor)
            assert code == 0, output
        yield vanished


def until_the_server_knows(url: str, pid: int) -> None:
    """Wait until the server has ended the session, and log how long that took."""
    began = time.monotonic()
    holders.alone_until(url, lambda: pid not in holders.pids(url), "the end of the session", seconds=BOUND_SECONDS)
    log.info("the lock was free %.1f s after the host had vanished", time.monotonic() - began)


def assert_applied_once(url: str, ini: Path, revision: str) -> None:
    """Assert that `vanished` attempted the revision, `successor` applied it, and every other one was applied once."""
    rows = [(row["outcome"], row["instance"]) for row in evidence.history(url) if row["revision"] == revision]
    assert rows == [("interrupted", "vanished"), ("applied", "successor")]
    assert evidence.applied(url) == project.revisions(ini)
    assert evidence.versions(url) == [project.head(ini)]
    assert evidence.marks(url) == ["after", revision]
    assert evidence.advisory_locks(url) == 0


def assert_it_does_nothing(vanished: "subprocess.Popen[str]", revision: str) -> None:
    """Assert that the upgrade that is back misses its session, finds the schema at head, and applies nothing."""
    began = time.monotonic()
    code, output = finish(vanished)
    log.info("the one that was back knew after %.1f s", time.monotonic() - began)
    assert code == 0, output
    assert f"Applied {revision}" not in output


def test_a_holder_that_vanishes_between_statements_is_replaced(url: str, host: Namespace, tmp_path: Path) -> None:
    """The holder's host vanishes while its transaction is idle: a waiter finishes; later the holder runs nothing."""
    ini = project.make_history(tmp_path, holders.in_python(tmp_path), project.quick("after"))
    with upgrade_on_a_vanishing_host(host, url, ini, (tmp_path / "asleep").exists) as vanished:
        (tmp_path / "wake").touch()
        assert_it_does_nothing(vanished, "in_python")
    assert_applied_once(url, ini, "in_python")


def test_a_holder_that_vanishes_inside_a_statement_is_replaced(url: str, host: Namespace, tmp_path: Path) -> None:
    """The holder's host vanishes in a statement: the server ends it, a waiter finishes, the holder runs nothing."""
    ini = project.make_history(tmp_path, holders.in_the_server(), project.quick("after"))
    with upgrade_on_a_vanishing_host(host, url, ini, lambda: evidence.executing(url, "pg_sleep(300)")) as vanished:
        assert_it_does_nothing(vanished, "in_the_server")
    assert_applied_once(url, ini, "in_the_server")


def until_all_miss_the_server(instances: Sequence[Instance]) -> None:
    """Wait until each instance logs that it has no connection, and log how long that took."""
    began, missed = time.monotonic(), dict[str, float]()

    def told() -> bool:
        for instance in instances:
            if "Waiting for the database: no connection while" in instance.log():
                missed.setdefault(instance.name, time.monotonic() - began)
        return len(missed) == len(instances)

    wait_until(told, "all know that the server is gone", seconds=BOUND_SECONDS)
    log.info("known after %s", ", ".join(f"{seconds:.1f} s" for seconds in missed.values()))


def test_instances_survive_a_server_whose_host_vanishes(url: str, host: Namespace, tmp_path: Path) -> None:
    """The server's host vanishes: lock holder and waiter say so before the network is back, and then finish."""
    ini = project.make_history(tmp_path, holders.in_the_server(), project.quick("after"))
    there = url.replace("127.0.0.1", host.gateway)
    with fleet(2, there, ini=ini, inside=host.inside(), MIGRATION_IDLE_SECONDS="0") as instances:
        wait_until(lambda: evidence.executing(url, "pg_sleep(300)"), "one that migrates", seconds=60)
        wait_until(lambda: ":waiting:" in str(evidence.sessions(url)), "one that waits", seconds=60)
        evidence.let_go(url)
        with host.vanished():
            until_all_miss_the_server(instances)
        for instance in instances:
            instance.until(lambda here=instance: "Ready: " in here.log(), "ready", seconds=60)  # type: ignore[misc]
            assert "Traceback" not in instance.log()
    assert evidence.outcomes(url, "in_the_server") == ["interrupted", "applied"]
    assert evidence.applied(url) == project.revisions(ini)
    assert evidence.marks(url) == ["after", "in_the_server"]
