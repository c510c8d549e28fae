"""A real MariaDB for the tests: Debian's server in a temporary folder, on a free port of 127.0.0.1.

    with running_mariadb() as server, server.database("shop") as url:
        server.query("SHOW PROCESSLIST")

`query` runs as root through the server's own client and socket, so that it works while the network path is broken.
"""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, TypeVar
from urllib.parse import quote

from devtools.account import Account
from devtools.ports import free_port
from tests.support.servers import program, temporary_home
from tests.support.waiting import FOREVER_SECONDS, wait_until

REMEDY = "apt-get install mariadb-server"

USER, PASSWORD = "ledger", "pa ss%/@word"
"""An account that owns every database of the tests and nothing else; its password needs percent-encoding."""

SMALL = [
    "--innodb-buffer-pool-size=16M",
    "--innodb-log-file-size=8M",
    "--key-buffer-size=1M",
    "--aria-pagecache-buffer-size=1M",
]

# A commit reaches the operating system, so it outlives a killed server; a disk that loses power is not what is tested.
FAST = ["--innodb-flush-log-at-trx-commit=2", "--innodb-doublewrite=0", "--skip-log-bin", "--skip-name-resolve"]


class MariaDBError(Exception):
    """The server or its client failed; the message ends with their own words."""


@dataclass
class MariaDB:
    """One server: its folder, its port, and the process while it runs.

    Attributes:
        home: a folder of its own, reachable by `account`, under a path short enough for a socket.
        port: on 127.0.0.1; the same after a restart.
        settings: server settings by name, as on the command line of `mariadbd`.
        account: the account that the server runs as; `mariadbd` started by root must be told one.
    """

    home: Path
    port: int = field(default_factory=free_port)
    settings: dict[str, str] = field(default_factory=dict)
    account: Account = field(default_factory=Account.unprivileged)
    kind: ClassVar[str] = "mariadb"
    _process: "subprocess.Popen[bytes] | None" = None
    _dumps: dict[str, str] = field(default_factory=dict)

    @property
    def socket(self) -> Path:
        """The server's unix socket."""
        return self.home / "socket"

    @property
    def log(self) -> Path:
        """The server's log file, appended from run to run."""
        return self.home / "log"

    @property
    def pid(self) -> int:
        """The process id, for a signal of the test's own choice."""
        assert self._process is not None, "the server does not run"
        return self._process.pid

    def url(self, database: str, *, user: str = USER, password: str = PASSWORD) -> str:
        """Return the URL of `database` as platforms write it."""
        return f"mysql://{quote(user, safe='')}:{quote(password, safe='')}@127.0.0.1:{self.port}/{database}"

    def initialise(self) -> None:
        """Create the system tables.

        Raises:
            MariaDBError: mariadb-install-db failed.
        """
        install = str(program("mariadb-install-db", REMEDY))
        command = [
            install,
            "--no-defaults",
            *self._folders,
            *SMALL,
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
        ]
        made = subprocess.run(command, capture_output=True, text=True, cwd=self.home, **self.account.identity)
        if made.returncode != 0:
            raise MariaDBError(f"mariadb-install-db failed with {made.returncode}: {made.stderr or made.stdout}")

    def command(self) -> list[str]:
        """Return the command that starts the server as `account`, without the options for folders and port."""
        # `mariadbd` started by root drops root's rights by itself
        user = [f"--user={self.account.identity['user']}"] if self.account.identity else []
        return [str(program("mariadbd", REMEDY, "/usr/sbin")), "--no-defaults", *SMALL, *user]

    def start(self) -> None:
        """Start the server and return once it answers."""
        where = [
            f"--socket={self.socket}",
            f"--port={self.port}",
            "--bind-address=127.0.0.1",
            f"--pid-file={self.home / 'pid'}",
        ]
        given = [f"--{name}={value}" for name, value in self.settings.items()]
        command = [*self.command(), *self._folders, *where, *FAST, *given]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(command, cwd=self.home, stdout=log, stderr=log, start_new_session=True)
        try:
            wait_until(self._answers, "the server answers")
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """Shut the server down in order, if it runs."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(FOREVER_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def kill(self) -> None:
        """End the server like a crash, if it runs."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def query(self, sql: str, *, database: str = "") -> list[list[str]]:
        """Run statements as root in a session of their own, in autocommit, and return the rows as text.

        Raises:
            MariaDBError: the server refused, or does not answer.
        """
        return [line.split("\t") for line in self._run(self._client(database), given=sql).splitlines()]

    @contextmanager
    def holding(self, sql: str, *, database: str) -> Iterator[None]:
        """Keep a session open that has run `sql` as root, with the locks that it acquired."""
        pipe = subprocess.PIPE
        with subprocess.Popen([*self._client(database), "--unbuffered"], stdin=pipe, stdout=pipe, text=True) as client:
            told, said = client.stdin, client.stdout
            assert told is not None, "it is a pipe"
            assert said is not None, "it is a pipe"
            told.write(f"{sql}; SELECT 'held';\n")
            told.flush()
            try:
                assert said.readline() == "held\n", sql
                yield
            finally:
                client.kill()

    @contextmanager
    def database(self, name: str, *, template: str | None = None) -> Iterator[str]:
        """Create `name`, as a copy of `template` if one is given, yield its URL, and drop it with its sessions."""
        self.query(f"CREATE DATABASE `{name}` CHARACTER SET utf8mb4; GRANT ALL ON `{name}`.* TO `{USER}`@`%`")
        if template is not None:
            self.query(self._dump(template), database=name)
        try:
            yield self.url(name)
        finally:
            self._disconnect(name)
            self.query(f"DROP DATABASE `{name}`; REVOKE ALL ON `{name}`.* FROM `{USER}`@`%`")

    def _client(self, database: str) -> list[str]:
        return [*self._login("mariadb"), "--batch", "--skip-column-names", *([database] if database else [])]

    def _login(self, client: str) -> list[str]:
        login = [
            "--no-defaults",
            f"--socket={self.socket}",
            "--user=root",
            "--default-character-set=utf8mb4",
            "--skip-ssl",
        ]
        return [str(program(client, REMEDY)), *login]

    def _run(self, command: list[str], *, given: str = "") -> str:
        done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=FOREVER_SECONDS)
        if done.returncode != 0:
            raise MariaDBError(done.stderr.strip())
        return done.stdout

    def _dump(self, template: str) -> str:
        """Return the statements that create a copy of `template`, which never changes."""
        if template not in self._dumps:
            self._dumps[template] = self._run([*self._login("mariadb-dump"), template])
        return self._dumps[template]

    def _disconnect(self, name: str) -> None:
        # a session with an open transaction would block the DROP DATABASE
        for [number] in self.query(f"SELECT id FROM information_schema.processlist WHERE db = '{name}'"):
            with suppress(MariaDBError):  # it has ended
                self.query(f"KILL {number}")

    @property
    def _folders(self) -> list[str]:
        return [f"--datadir={self.home / 'data'}", f"--tmpdir={self.home}"]

    def _answers(self) -> bool:
        assert self._process is not None
        ended = self._process.poll()
        if ended is not None:
            words = " / ".join(self.log.read_text(errors="replace").splitlines()[-5:])
            raise MariaDBError(f"the server ended with {ended}: {words}")
        try:
            return bool(self.query("SELECT 1"))
        except MariaDBError:
            return False


Server = TypeVar("Server", bound=MariaDB)


@contextmanager
def running_mariadb(**settings: str) -> Iterator[MariaDB]:
    """Run a server of the caller's own, with `settings` on its command line; remove it and its data at the end."""
    program("mariadbd", REMEDY, "/usr/sbin")
    account = Account.unprivileged()
    with temporary_home(account) as home, started(MariaDB(home, settings=settings, account=account)) as server:
        yield server


@contextmanager
def started(server: Server) -> Iterator[Server]:
    """Start the server with its account for the tests; kill it at the end, for nothing of it is kept."""
    server.initialise()
    server.start()
    try:
        server.query(f"CREATE USER `{USER}`@`%` IDENTIFIED BY '{PASSWORD}'")
        yield server
    finally:
        server.kill()
