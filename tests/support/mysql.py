"""A real MySQL for the tests: the server that `python3 -m devtools.mysql` unpacked, used like the MariaDB of the tests.

    with running_mysql() as server, server.database("shop") as url:
        server.query("SHOW PROCESSLIST")

Its clients are MariaDB's, and a server starts on a copy of a data folder that was made once.
"""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from devtools.account import Account
from devtools.mysql import SMALL, UNPACKED, data_folder, server_command
from tests.support.mariadb import MariaDB, started
from tests.support.servers import optional, temporary_home

REMEDY = "on Debian, run python3 -m devtools.mysql"

# no test needs the first two, and each makes the start longer
LESS = ["--performance-schema=OFF", "--mysqlx=OFF", "--log-error-verbosity=1"]


class MySQL(MariaDB):
    """One server, with the clients of MariaDB."""

    kind = "mysql"

    def initialise(self) -> None:
        """Copy the system tables that were made once."""
        source, target = data_folder(UNPACKED), self.home / "data"
        subprocess.run(["cp", "--recursive", "--sparse=always", source, target], check=True)
        if self.account.identity:
            for path in (target, *target.rglob("*")):
                os.chown(path, self.account.identity["user"], self.account.identity["group"])

    def command(self) -> list[str]:
        """Return the command that starts the server, without the options for folders and port."""
        return [*server_command(UNPACKED, self.account), *SMALL, *LESS, "--secure-file-priv=NULL"]


@contextmanager
def running_mysql(**settings: str) -> Iterator[MySQL]:
    """Run a server of the caller's own, with `settings` on its command line; remove it and its data at the end."""
    if not UNPACKED.exists():
        optional("MySQL", REMEDY)
    account = Account.unprivileged()
    with temporary_home(account) as home, started(MySQL(home, settings=settings, account=account)) as server:
        yield server
