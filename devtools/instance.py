"""One instance of the service: a uvicorn process, its log, and its last report about the migration."""

import asyncio
import json
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any

from devtools.report import Report, Run, exited, last_run, read

MARK = "Running migrations"
"""Only the instance that migrates logs this."""

STOP_SECONDS = 10.0
ANSWER_SECONDS = 2.0
TAIL_LINES = 8


class Instance:
    """One process from start to stop.

    Attributes:
        name: for example `api-1`.
        url: its address.
        report: the result of the last poll.
        run: the migration that it reported.
        seconds: from its start to its final state, or to the last poll.
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
        """Whether this instance ran the migrations to their end; another one may retry a run that failed."""
        finished = self.run.succeeded if self.run else self.report.ready
        return finished and MARK in self._text()

    @property
    def port(self) -> int:
        """The port of its address."""
        return int(self.url.rpartition(":")[2])

    @property
    def last_words(self) -> list[str]:
        """The last lines of its log, without our own probes."""
        lines = (line for line in self._text().splitlines() if line.strip())
        return [line for line in lines if "GET /health/" not in line][-TAIL_LINES:]

    async def start(self, environment: Mapping[str, str]) -> None:
        """Start the process with `environment`, and an empty log for its output."""
        # The process inherits a listening socket, so no other process can bind the port while it starts.
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
                start_new_session=True,  # Ctrl-C reaches only this process, which stops the instances
            )
        self._started = time.monotonic()

    async def look(self) -> None:
        """Update `report`; for a ready or failed instance only check that its process runs."""
        code = self._process.returncode if self._process else None
        if code is not None:
            self._note(exited(code))
        elif not self.report.over:
            await self._ask()

    async def stop(self) -> None:
        """Stop the process with SIGTERM, and after 10 s with SIGKILL."""
        if self._process is None or self._process.returncode is not None:
            return
        self._process.terminate()
        try:
            await asyncio.wait_for(self._process.wait(), STOP_SECONDS)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()

    async def _ask(self) -> None:
        try:
            status, body = await asyncio.to_thread(_get, f"{self.url}/health/migrations")
        except (OSError, HTTPException, ValueError):
            # it does not answer yet, or has just exited; the next poll shows which
            self._note(self.report)
            return
        self._note(read(status, body))
        self.run = last_run(body)

    def _note(self, report: Report) -> None:
        if not self.report.over:
            self.seconds = time.monotonic() - self._started
        self.report = report

    def _text(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""


def _get(url: str) -> tuple[int, dict[str, Any]]:
    """Return status code and JSON of the answer, without a proxy."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=ANSWER_SECONDS) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as answer:
        with answer:
            return answer.code, json.load(answer)
