"""The DNS resolver never answers: a process says what it waits for, and SIGTERM ends it during the lookup.

A lookup cannot be cancelled, only abandoned. The log shows how long the end took (`--log-cli-level=INFO`).
"""

import logging
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from signal import SIGTERM

import pytest

from tests.support.fleet import command, finish, fleet
from tests.support.servers import optional

pytestmark = pytest.mark.acceptance

log = logging.getLogger(__name__)

NOBODY = "127.53.53.53"
RESOLVER = f"nameserver {NOBODY}\noptions timeout:30 attempts:5\n"
"""A lookup takes 150 s, the longest that resolv.conf allows."""

URL = "postgresql://postgres@database.example/ledger?connect_timeout=2"
MISSED = "no connection while connecting to database.example:5432: no answer in time"


@pytest.fixture
def deaf(tmp_path: Path) -> Iterator[list[str]]:
    """Yield a command prefix that gives a process a resolver which never answers."""
    tool = shutil.which("unshare") if os.geteuid() == 0 and Path("/etc/resolv.conf").exists() else None
    if tool is None or subprocess.run([tool, "--mount", "true"], capture_output=True).returncode != 0:
        optional("a resolver of its own", "run as root with CAP_SYS_ADMIN, apt-get install util-linux")
    resolver = tmp_path / "resolv.conf"
    resolver.write_text(RESOLVER)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as nobody:
        nobody.bind((NOBODY, 53))
        yield ["unshare", "--mount", "sh", "-c", 'mount --bind "$0" /etc/resolv.conf && exec "$@"', str(resolver)]
        # the process sent its query to the resolver, so the lookup is what hangs
        nobody.setblocking(False)
        assert b"database" in nobody.recv(512)


def test_an_instance_stops_on_sigterm_during_a_dns_lookup(deaf: list[str]) -> None:
    """An instance waits for DNS: each attempt times out, the probes are answered, and SIGTERM ends it with 143."""
    with fleet(1, URL, inside=deaf) as (instance,):
        waiting = f"waiting for the database: {MISSED}"
        instance.until(lambda: instance.health().get("message") == waiting, "waits for the database")
        assert instance.get("/health/live").status_code == 200
        assert instance.get("/health/ready").status_code == 503
        told = time.monotonic()
        instance.kill(SIGTERM)
        assert instance.wait() == 143
        log.info("an instance ended %.1f s after SIGTERM, with its lookup still unanswered", time.monotonic() - told)
        assert "did not stop" not in instance.log()


def test_a_command_stops_on_sigterm_during_a_dns_lookup(deaf: list[str]) -> None:
    """`./migrate.sh upgrade` waits for DNS and says so; SIGTERM ends it with 143, and it leaves nothing running."""
    with command([*deaf, "./migrate.sh", "upgrade"], URL) as upgrade:
        assert upgrade.stdout is not None
        assert f"Waiting for the database: {MISSED}" in upgrade.stdout.readline()
        told = time.monotonic()
        upgrade.send_signal(SIGTERM)
        code, output = finish(upgrade)
        log.info("a command ended %.1f s after SIGTERM, with its lookup still unanswered", time.monotonic() - told)
    assert (code, "stopped by SIGTERM" in output, "did not stop" in output) == (143, True, False), output


def test_check_times_out_during_a_dns_lookup(deaf: list[str]) -> None:
    """`check` tries once: it exits with 5 after its own connect_timeout and not after the resolver's 150 s."""
    began = time.monotonic()
    with command([*deaf, "./migrate.sh", "check"], URL) as check:
        code, output = finish(check)
    log.info("a command that looks once ended after %.1f s", time.monotonic() - began)
    assert (code, output.splitlines()[0]) == (5, f"DatabaseUnreachable: {MISSED}")
