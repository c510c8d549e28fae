"""The database of `./dev up`: the one DATABASE_URL names, else an embedded PostgreSQL whose data stay between runs."""

import hashlib
import secrets
import shutil
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from devtools.account import Account
from devtools.ports import free_port
from devtools.postgres import STOP_SECONDS, Postgres, embedded_binaries

SETTINGS = {"unix_socket_directories": "", "max_connections": "300", "shared_buffers": "64MB"}


class UsageError(Exception):
    """What was asked for contradicts itself; the message says what to change."""


@dataclass(frozen=True)
class Database:
    """Where the instances connect to, and how to call it on the screen."""

    url: str
    description: str


@contextmanager
def open_database(folder: Path, environment: Mapping[str, str], *, fresh: bool) -> Iterator[Database]:
    """Yield the database to use; an embedded one is started, and stopped at the end.

    Raises:
        UsageError: `fresh` would have to destroy a database that is not ours.
        PostgresError: the embedded server did not start.
    """
    given = environment.get("DATABASE_URL")
    if given and fresh:
        raise UsageError("--fresh starts over the embedded database only; unset DATABASE_URL, or empty yours yourself")
    if given:
        yield Database(given, "the one DATABASE_URL names")
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
    postgres = Postgres(embedded_binaries(account, home.parent / "binaries"), home, free_port(), SETTINGS, account)
    password = _initialise(postgres)
    postgres.start()
    try:
        url = f"postgresql://postgres:{password}@127.0.0.1:{postgres.port}/postgres"
        _write_private(folder / "database-url", url)
        yield Database(url, f"embedded PostgreSQL 18, data in {home}")
    finally:
        postgres.stop()
        (folder / "database-url").unlink(missing_ok=True)


def _initialise(postgres: Postgres) -> str:
    """Make the data directory with a password of its own: other accounts of this machine reach the port as well."""
    password = postgres.home / "password"
    postgres.home.mkdir(parents=True, exist_ok=True)
    if not (postgres.data / "PG_VERSION").exists():
        _write_private(password, secrets.token_hex(16))
        postgres.account.own(password)
    postgres.initialise("--auth=scram-sha-256", f"--pwfile={password}")
    return password.read_text()


def _write_private(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text)


def home_for(wanted: Path, account: Account) -> Path:
    """Choose where the server lives: `wanted`, unless `account` cannot get there.

    Root in a project below a closed folder such as /root: opening that folder to everybody is not ours to do, so the
    data go to a folder of the system, one for each project.
    """
    wanted.parent.mkdir(parents=True, exist_ok=True)
    if account.reaches(wanted.parent):
        return wanted
    name = hashlib.sha256(str(wanted.resolve()).encode()).hexdigest()[:12]
    return Path("/var/lib/fastapi-migrations-ledger") / name / wanted.name


def stop_orphan(data: Path) -> None:
    """Stop the server that a killed run left behind in `data`; it would keep the next one from starting."""
    note = data / "postmaster.pid"
    try:
        orphan = psutil.Process(int(note.read_text().splitlines()[0]))
        if str(data) in orphan.cmdline():
            orphan.send_signal(signal.SIGINT)
            orphan.wait(STOP_SECONDS)
        else:
            # the pid belongs to somebody else by now, and PostgreSQL would take that one for its predecessor
            note.unlink()
    except (FileNotFoundError, psutil.NoSuchProcess):
        return
