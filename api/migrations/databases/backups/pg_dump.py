"""`pg_dump` and `pg_restore`: which ones, how they are run, and what they say when they fail.

None outlives whoever waits for it: cancelled, it is told to end, and then made to.
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
from pathlib import Path

from ...errors import BackupFailed

INSTALLED = Path("/usr/lib/postgresql")
"""Where Debian keeps one folder for each version."""
LOCK_WAIT_SECONDS = 60
"""How long pg_dump waits for a table that somebody has locked: a migration would not get that lock either."""
GRACE_SECONDS = 0.5
"""From the request to end to SIGKILL; less than a command has between a signal and its own end."""

_WHERE = re.compile(r"connection to server (?:at|on socket) .*? failed: ")
_LITERALS = re.compile(r"'(?:[^']|'')*'")


@dataclass(frozen=True)
class Tools:
    """A folder with `pg_dump` and `pg_restore`, and the environment they run in."""

    folder: Path
    major: int
    environment: Mapping[str, str]

    @classmethod
    async def find(cls, server_major: int, environment: Mapping[str, str]) -> Tools:
        """Those on PATH, or else the newest installed, that can dump a server of that version.

        Raises:
            BackupFailed: there are none, or they are older than the server.
        """
        found = [tools for folder in _folders() if (tools := await cls._in(folder, environment)) is not None]
        for tools in found:
            if tools.major >= server_major:
                return tools
        remedy = (
            f"install the PostgreSQL client {server_major} or newer (Debian: apt-get install "
            f"postgresql-client-{server_major}), and put it on PATH"
        )
        if not found:
            raise BackupFailed(f"no backup without pg_dump and pg_restore, and they are not installed: {remedy}")
        newest = max(tools.major for tools in found)
        raise BackupFailed(f"pg_dump {newest} is older than the server, which is PostgreSQL {server_major}: {remedy}")

    async def dump(self, path: Path) -> None:
        """Write the database into `path`, in pg_dump's custom format.

        Raises:
            BackupFailed: it could not be read, or not be written.
        """
        await self._run(
            "pg_dump", "--format=custom", "--no-password", f"--lock-wait-timeout={LOCK_WAIT_SECONDS}s", f"--file={path}"
        )

    async def contents(self, path: Path) -> list[str]:
        """What is in a dump, a line each.

        Raises:
            BackupFailed: it is no dump, or a damaged one.
        """
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
            # a session of its own: Ctrl-C in the terminal is for us to act on
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
                await _end(process)
        if process.returncode != 0:
            raise BackupFailed(
                f"{name} failed ({process.returncode}): {self._plain(complaint.decode(errors='replace'))}"
            )
        return output.decode(errors="replace")

    def _plain(self, complaint: str) -> str:
        line = next(iter(complaint.strip().splitlines()), "it did not say why")
        password = self.environment.get("PGPASSWORD")
        line = line.replace(password, "…") if password else line
        return _LITERALS.sub("'…'", _WHERE.sub("connection failed: ", line))[:300]


def _folders() -> Iterator[Path]:
    on_path = shutil.which("pg_dump")
    if on_path is not None:
        yield Path(on_path).parent
    versions = [one for one in INSTALLED.glob("*/bin") if one.parent.name.isdecimal()]
    yield from sorted(versions, key=lambda folder: int(folder.parent.name), reverse=True)


async def _end(process: Process) -> None:
    # pg_dump cancels its statement on the server before it goes
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
