"""One instance of the service: a uvicorn process, its log, and what it last said about its migration."""

import asyncio
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import httpx

from devtools.report import Report, Run, exited, last_run, read

MARK = "Running migrations"
"""What the one instance that migrates writes to its log, and no other ever does."""

STOP_SECONDS = 10.0
TAIL_LINES = 8


class Instance:
    """One process from start to stop.

    Attributes:
        name: what it calls itself, as in `api-1`.
        url: where it answers.
        report: what the last look saw.
        run: the migration it told about when it became ready.
        seconds: from its start to the moment nothing more would change, or to the last look.
    """

    def __init__(self, name: str, listener: socket.socket, logs: Path) -> None:
        host, port = listener.getsockname()
        self.name = name
        self.url = f"http://{host}:{port}"
        self.report = Report()
        self.run: Run | None = None
        self.seconds = 0.0
        self._listener = listener
        self._log = logs / f"{name}.log"
        self._started = 0.0
        self._process: asyncio.subprocess.Process | None = None

    @property
    def migrated(self) -> bool:
        """Whether this instance ran the migrations: its log says so."""
        return MARK in self._text()

    @property
    def last_words(self) -> list[str]:
        """The end of its log, without the probes we sent ourselves."""
        lines = (line for line in self._text().splitlines() if line.strip())
        return [line for line in lines if "GET /health/" not in line][-TAIL_LINES:]

    async def start(self, environment: Mapping[str, str]) -> None:
        """Start the process with `environment`; its output goes to its log, emptied first."""
        # It is handed the port as a socket that listens already: nobody can take it while the process starts.
        socket_number = self._listener.fileno()
        command = ["-m", "uvicorn", "api.main:app", "--fd", str(socket_number)]
        own = {"MIGRATION_INSTANCE": self.name, "PYTHONUNBUFFERED": "1"}
        with self._listener, self._log.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                *command,
                env={**environment, **own},
                stdout=log,
                stderr=log,
                pass_fds=[socket_number],
                start_new_session=True,  # Ctrl-C in the terminal reaches only us, and we stop everything in order
            )
        self._started = time.monotonic()

    async def look(self, client: httpx.AsyncClient) -> None:
        """Update `report`; an instance that is ready is only watched for its end."""
        code = self._process.returncode if self._process else None
        if code is not None:
            self._note(exited(code))
        elif not self.report.ready:
            await self._ask(client)

    async def stop(self) -> None:
        """End the process: first politely, and after 10 s without asking."""
        if self._process is None or self._process.returncode is not None:
            return
        self._process.terminate()
        try:
            await asyncio.wait_for(self._process.wait(), STOP_SECONDS)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()

    async def _ask(self, client: httpx.AsyncClient) -> None:
        try:
            answer = await client.get(f"{self.url}/health/migrations")
            body = answer.json()
        except (httpx.HTTPError, ValueError):
            # it does not answer yet, or it has just ended: the next look will tell
            self._note(self.report)
            return
        self._note(read(answer.status_code, body))
        self.run = last_run(body)

    def _note(self, report: Report) -> None:
        if not self.report.over:
            self.seconds = time.monotonic() - self._started
        self.report = report

    def _text(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""
