"""The server runs out of disk space or of locks: the revision fails once, says what to do, and leaves nothing behind.

The log shows how long it took (`--log-cli-level=INFO`).
"""

import logging
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from devtools.account import Account
from tests.support import evidence, project
from tests.support.fleet import MARK, fleet, migrate, until_one_migrates, until_phase
from tests.support.servers import Server, embedded_postgres, optional, temporary_home

pytestmark = pytest.mark.acceptance

log = logging.getLogger(__name__)

HELD = "mark()\n" + project.WAIT_FOR_THE_TEST
FILL = (
    HELD
    + """\
op.execute("CREATE TABLE big AS SELECT repeat('x', 1000) FROM generate_series(1, 30000)")
"""
)
MANY_TABLES = (
    HELD
    + """\
for number in range(20000):
    op.execute(f"CREATE TABLE t{number} ()")
"""
)


@pytest.fixture
def small_server() -> Iterator[Server]:
    """Start a server with the smallest possible lock table."""
    with embedded_postgres(max_connections="8", max_locks_per_transaction="10") as started:
        yield started


@contextmanager
def on_a_small_disk(server: Server) -> Iterator[tuple[str, Path]]:
    """Yield the URL of a database on a disk of 32 MB, and the disk's mount point."""
    account = Account.unprivileged()
    with temporary_home(account) as home:
        options = f"size=32m,mode=0700,uid={home.stat().st_uid},gid={home.stat().st_gid}"
        mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(home)]
        if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
            optional("a disk of its own", "run as root with CAP_SYS_ADMIN")
        try:
            server.execute(f"CREATE TABLESPACE small LOCATION '{home}'")
            with server.database("filled") as url:
                server.execute("ALTER DATABASE filled SET TABLESPACE small")
                yield url, home
        finally:
            # the server keeps files open
            subprocess.run(["umount", "--lazy", str(home)], check=True)


def assert_failed_once(url: str, ini: Path, revision: str, *words: str) -> None:
    """Assert that one of three instances ran the revision, all report the same error, and nothing is left behind."""
    with fleet(3, url, ini=ini, MIGRATION_ON_FAILURE="hold", MIGRATION_SHOW_ERRORS="true") as instances:
        migrator = until_one_migrates(instances)
        until_phase([instance for instance in instances if instance is not migrator], "waiting")
        evidence.let_go(url)
        began = time.monotonic()
        until_phase(instances, "failed")
        log.info("failed everywhere after %.1f s: %s", time.monotonic() - began, migrator.health()["message"])
        for instance in instances:
            message = instance.health()["message"]
            assert [word for word in (f"revision {revision}", *words) if word not in message] == []
            assert "Traceback" not in instance.log()
        assert sum(instance.log().count(MARK) for instance in instances) == 1
    assert evidence.outcomes(url, revision) == ["failed"]
    assert all(word in evidence.history(url)[-1]["error"] for word in words)
    assert evidence.versions(url) == ["one"]
    assert evidence.marks(url) == ["one"]
    assert evidence.advisory_locks(url) == 0


def test_a_full_disk_fails_a_revision_once(small_server: Server, tmp_path: Path) -> None:
    """A revision fills the disk: it fails once and all name the remedy; once the disk is larger, `upgrade` succeeds."""
    ini = project.make_history(tmp_path, project.quick("one"), project.Revision("fill", FILL))
    with on_a_small_disk(small_server) as (url, disk):
        words = "DiskFullError (SQLSTATE 53100)", "No space left on device", "The server's disk is full. To fix: free"
        assert_failed_once(url, ini, "fill", *words)
        subprocess.run(["mount", "-o", "remount,size=128m", str(disk)], check=True)
        code, output = migrate("upgrade", url=url, ini=ini)
        assert code == 0, output
        assert evidence.marks(url) == ["fill", "one"]


def test_a_full_lock_table_fails_a_revision_once(small_server: Server, tmp_path: Path) -> None:
    """A revision creates more tables than the lock table holds: it fails once and names max_locks_per_transaction."""
    ini = project.make_history(tmp_path, project.quick("one"), project.Revision("many", MANY_TABLES))
    with small_server.database("locked") as url:
        assert_failed_once(url, ini, "many", "(SQLSTATE 53200)", "To fix: raise max_locks_per_transaction")
