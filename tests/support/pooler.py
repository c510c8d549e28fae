"""A real PgBouncer in front of a test server, and the URLs of databases through it."""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from devtools.account import Account
from devtools.ports import free_port
from tests.support.servers import Server, fetch_sync, program, temporary_home
from tests.support.waiting import wait_until

CONFIGURATION = """\
[databases]
* = host={server.host} port={server.port}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = trust
auth_file = {home}/users
pool_mode = {pool_mode}
default_pool_size = {pool_size}
max_client_conn = 200
server_reset_query = DISCARD ALL
"""


@dataclass(frozen=True)
class PgBouncer:
    """A running pooler: its port and its log file."""

    port: int
    log: Path

    def url(self, database: str) -> str:
        """Return the URL of `database` through the pooler."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"


StartPooler = Callable[..., PgBouncer]
"""The fixture `pgbouncer`: starts a pooler with these options."""


def through(pooler: PgBouncer, url: str) -> str:
    """Return the URL of the same database through the pooler."""
    return pooler.url(urlsplit(url).path[1:])


@contextmanager
def running_pgbouncer(server: Server, *, pool_mode: str = "transaction", pool_size: int = 4) -> Iterator[PgBouncer]:
    """Start PgBouncer in front of `server`; `pool_mode` is `session`, `transaction` or `statement`."""
    binary = program("pgbouncer", "apt-get install pgbouncer", "/usr/sbin")
    account = Account.unprivileged()  # like PostgreSQL it refuses to run as root
    with temporary_home(account) as home:
        pooler = PgBouncer(free_port(), home / "log")
        pool = {"pool_mode": pool_mode, "pool_size": pool_size}
        text = CONFIGURATION.format(server=server, port=pooler.port, home=home, **pool)
        (home / "users").write_text('"postgres" ""\n')
        (home / "ini").write_text(text)
        account.own(home / "users", home / "ini")
        with pooler.log.open("wb") as log:
            command = [str(binary), str(home / "ini")]
            process = subprocess.Popen(command, stdout=log, stderr=log, cwd=home, **account.identity)
        try:
            wait_until(lambda: _answers(pooler, process), "pgbouncer answers")
            yield pooler
        finally:
            process.kill()
            process.wait()


def _answers(pooler: PgBouncer, process: "subprocess.Popen[bytes]") -> bool:
    assert process.poll() is None, f"pgbouncer ended with {process.returncode}: {pooler.log.read_text()}"
    try:
        return bool(fetch_sync(pooler.url("postgres"), "SELECT 1"))
    except OSError:
        return False
