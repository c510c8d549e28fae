"""A standby of a test server."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from devtools.account import Account
from devtools.ports import HOST, free_port
from devtools.postgres import Postgres
from tests.support.servers import Server, optional, temporary_home

REPLICATION = f"host replication postgres {HOST}/32 trust\n"


@contextmanager
def copy_of(primary: Server) -> Iterator[Server]:
    """Copy the server and start the copy as its standby; the server has to allow `REPLICATION`."""
    if primary.process is None:
        optional("a server of our own to copy", "unset TEST_DATABASE_URL")
    with temporary_home(Account.unprivileged()) as home:
        settings = {**primary.process.settings, "unix_socket_directories": str(home)}
        copy = replace(primary.process, home=home, port=free_port(), settings=settings, _process=None)
        _copy(primary, copy)
        copy.start()
        try:
            yield Server(f"postgresql://postgres@{HOST}:{copy.port}/postgres", copy, home)
        finally:
            copy.stop("immediate")


def _copy(primary: Server, copy: Postgres) -> None:
    source = ["-h", HOST, "-p", str(primary.port), "-U", "postgres", "-c", "fast"]
    command = [str(copy.binaries / "pg_basebackup"), "-D", str(copy.data), "-R", *source]
    done = subprocess.run(command, capture_output=True, text=True, cwd=copy.home, **copy.account.identity)
    assert done.returncode == 0, done.stderr
