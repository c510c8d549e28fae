"""A hot standby of a test server, and what a failover to it needs."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from devtools.ports import free_port
from devtools.postgres import Postgres
from tests.support.servers import Server, temporary_home
from tests.support.waiting import wait_until

REPLICATION = "local replication postgres trust\n"
"""A line of pg_hba.conf that the primary needs."""

DURABLE = {"synchronous_commit": "on"}
"""A crash must not undo what the server has reported as committed; the tests' other servers allow that, for speed."""


@contextmanager
def standby_of(primary: Server) -> Iterator[Server]:
    """Run a hot standby of `primary`, made by pg_basebackup."""
    assert primary.process is not None
    postgres = primary.process
    with temporary_home(postgres.account) as home:
        port = free_port()
        settings = {**postgres.settings, "unix_socket_directories": str(home)}
        standby = Postgres(postgres.binaries, home, port, settings, postgres.account)
        source = ["-h", str(postgres.home), "-p", str(postgres.port), "-U", "postgres"]
        command = [str(postgres.binaries / "pg_basebackup"), *source, "-D", str(standby.data), "-R", "-c", "fast"]
        made = subprocess.run(command, capture_output=True, text=True, cwd=home, **postgres.account.identity)
        assert made.returncode == 0, made.stderr
        standby.start()
        try:
            yield Server(f"postgresql://postgres@127.0.0.1:{port}/postgres", standby, home)
        finally:
            standby.stop("immediate")


def make_synchronous(primary: Server) -> None:
    """Let the primary commit nothing from now on that the standby does not have."""
    primary.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
    primary.execute("SELECT pg_reload_conf()")
    sql = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"
    wait_until(lambda: primary.execute(sql)[0][0] == 1, "a synchronous standby", seconds=30)
