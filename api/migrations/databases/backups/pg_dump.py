"""Finds and runs `pg_dump` and `pg_restore`, and reports their errors.

They connect to the server, database and role of the session by their environment, which other users cannot read; a
command line they could. A cancelled program is terminated, and killed after `GRACE_SECONDS`.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import asyncpg

from ...errors import BackupFailed
from ...urls.database_url import DatabaseURL
from ...urls.postgres import option

INSTALLED = Path("/usr/lib/postgresql")
"""Debian's folder, with a folder for each version."""
LOCK_WAIT_SECONDS = 60
"""Limit for pg_dump to lock a table: the migration would not get that lock either."""
GRACE_SECONDS = 0.5
"""From SIGTERM to SIGKILL; less than a command has between a signal and its own end."""

_LEADING_ELSEWHERE = {"PGHOSTADDR", "PGSERVICE", "PGSERVICEFILE", "PGCLIENTENCODING"}
_SECRETS = {"DATABASE_URL", "MIGRATION_DATABASE_URL"}
_FROM_URL = {
    "sslmode": "PGSSLMODE",
    "sslrootcert": "PGSSLROOTCERT",
    "sslcert": "PGSSLCERT",
    "sslkey": "PGSSLKEY",
    "sslcrl": "PGSSLCRL",
    "sslnegotiation": "PGSSLNEGOTIATION",
    "ssl_min_protocol_version": "PGSSLMINPROTOCOLVERSION",
    "ssl_max_protocol_version": "PGSSLMAXPROTOCOLVERSION",
    "krbsrvname": "PGKRBSRVNAME",
}
_WHERE = re.compile(r"connection to server (?:at|on socket) .*? failed: ")
_LITERALS = re.compile(r"'(?:[^']|'')*'")


@dataclass(frozen=True)
class Tools:
    """A folder with `pg_dump` and `pg_restore`, and their environment."""

    folder: Path
    major: int
    environment: Mapping[str, str]

    @classmethod
    async def find(cls, server_major: int, environment: Mapping[str, str]) -> Tools:
        """Return those on PATH, or else the newest of Debian's, that are not older than the server.

        Raises `BackupFailed` if there are none.
        """
        found = [tools for folder in _folders() if (tools := await cls._in(folder, environment)) is not None]
        for tools in found:
            if tools.major >= server_major:
                return tools
        why = "pg_dump and pg_restore are not installed"
        if found:
            newest = max(tools.major for tools in found)
            why = f"pg_dump {newest} is older than the server, which is PostgreSQL {server_major}"
        raise BackupFailed(
            f"{why}. To fix: install the PostgreSQL client {server_major} or newer (Debian: apt-get install "
            f"postgresql-client-{server_major}), and put it on PATH"
        )

    async def dump(self, path: Path, *options: str, lock_wait_seconds: float = LOCK_WAIT_SECONDS) -> None:
        """Write the database into `path`, in pg_dump's custom format. Raises `BackupFailed`."""
        limit = f"--lock-wait-timeout={round(lock_wait_seconds * 1000)}ms"
        await self._run("pg_dump", "--format=custom", "--no-password", limit, f"--file={path}", *options)

    async def script(self, path: Path, entries: Path, *options: str) -> str:
        """Return the SQL of those entries of a dump that the file `entries` lists. Raises `BackupFailed`."""
        return await self._run("pg_restore", "--file=-", f"--use-list={entries}", *options, str(path))

    async def contents(self, path: Path) -> list[str]:
        """Return the entries of a dump. Raises `BackupFailed` if it is damaged or no dump."""
        lines = (await self._run("pg_restore", "--list", str(path))).splitlines()
        return [line for line in lines if line and not line.startswith(";")]

    @classmethod
    async def _in(cls, folder: Path, environment: Mapping[str, str]) -> Tools | None:
        candidate = cls(folder, 0, environment)
        with suppress(BackupFailed):
            await candidate._run("pg_restore", "--version")
            version = re.search(r"\(PostgreSQL\) (\d+)", await candidate._run("pg_dump", "--version"))
            return cls(folder, int(version[1]), environment) if version else None
        return None

    async def _run(self, name: str, *arguments: str) -> str:
        try:
            # in a session of its own, because this process handles Ctrl-C of the terminal
            process = await asyncio.create_subprocess_exec(
                str(self.folder / name),
                *arguments,
                env=self.environment,
                stdin=DEVNULL,
                stdout=PIPE,
                stderr=PIPE,
                start_new_session=True,
            )
        except OSError as error:
            raise BackupFailed(f"{name} cannot be started: {error.strerror}") from error
        try:
            output, complaint = await process.communicate()
        finally:
            if process.returncode is None:
                await _terminate(process)
        if process.returncode != 0:
            raise BackupFailed(
                f"{name} failed ({process.returncode}): {self._plain(complaint.decode(errors='replace'))}"
            )
        return output.decode(errors="replace")

    def _plain(self, complaint: str) -> str:
        line = next(iter(complaint.strip().splitlines()), "it gave no reason")
        password = self.environment.get("PGPASSWORD")
        line = line.replace(password, "…") if password else line
        return _LITERALS.sub("'…'", _WHERE.sub("connection failed: ", line))[:300]


def _folders() -> Iterator[Path]:
    on_path = shutil.which("pg_dump")
    if on_path is not None:
        yield Path(on_path).parent
    versions = [folder for folder in INSTALLED.glob("*/bin") if folder.parent.name.isdecimal()]
    yield from sorted(versions, key=lambda folder: int(folder.parent.name), reverse=True)


async def _terminate(process: Process) -> None:
    # at SIGTERM, pg_dump cancels its statement on the server before it exits
    try:
        _signal(process, signal.SIGTERM)
        async with asyncio.timeout(GRACE_SECONDS):
            await process.wait()
    except TimeoutError:
        pass
    finally:
        _signal(process, signal.SIGKILL)
    await process.wait()


def _signal(process: Process, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


async def environment(connection: asyncpg.Connection, url: DatabaseURL, application_name: str) -> dict[str, str]:
    """Return the environment of a program that connects as `connection` did, with the same settings.

    It names only the host that `connection` uses: of several in the URL, another one may be a standby.
    """
    # asyncpg has no public access to what it read from URL, environment and password file
    address, known = connection._addr, connection._params
    host, port = _of_socket(address) if isinstance(address, str) else address
    settings = {name: value for name, value in known.server_settings.items() if name != "application_name"}
    given = {variable: url.parameters.get(parameter) for parameter, variable in _FROM_URL.items()} | {
        "PGHOST": host,
        "PGPORT": str(port),
        "PGUSER": known.user,
        "PGPASSWORD": await url.password() or known.password,
        "PGDATABASE": known.database,
        "PGAPPNAME": application_name,
        "PGCONNECT_TIMEOUT": f"{url.connect_timeout_seconds:.0f}",
        "PGOPTIONS": " ".join([settings.pop("options", ""), *(option(*setting) for setting in settings.items())]),
        # the log quotes the errors, in English
        "LC_ALL": "C",
    }
    kept = {name: value for name, value in os.environ.items() if name not in _LEADING_ELSEWHERE | _SECRETS}
    return kept | {name: value for name, value in given.items() if value is not None}


def _of_socket(path: str) -> tuple[str, str]:
    folder, _, name = path.rpartition("/")
    return folder or "/", PurePosixPath(name).suffix.removeprefix(".")
