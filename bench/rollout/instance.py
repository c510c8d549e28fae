"""An instance of a release, as a supervisor sees it: started, ready, stopped with SIGTERM."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from signal import SIGTERM

from bench.errors import BenchError
from bench.held import until
from bench.process import Program
from bench.service import get
from devtools.ports import HOST

READY_SECONDS, STOP_SECONDS = 900.0, 60.0


class Instance:
    """One `uvicorn APP`, started by the constructor.

    Attributes:
        name: for the report, such as `new-1`.
        port: where it listens.
        program: its process.
    """

    def __init__(self, name: str, app: str, port: int, environment: Mapping[str, str], folder: Path) -> None:
        self.name, self.port = name, port
        words = [sys.executable, "-m", "uvicorn", app, "--host", HOST, "--port", str(port), "--no-access-log"]
        self.program = Program(words, environment, folder)

    def until_ready(self) -> None:
        """Wait until /health/ready answers 200.

        Raises:
            BenchError: the process ended, or was not ready in time; the message has the end of its log.
        """
        until(lambda: self.program.has_ended or self._is_ready(), f"{self.name} is ready", READY_SECONDS)
        if self.program.has_ended:
            raise BenchError(f"{self.name} exited with {self.program.code}: {self.program.last_words()}")

    def until_waits_for_builds(self) -> list[str]:
        """Wait until it waits with its migration for sessions of older builds; return the names of those sessions.

        Raises:
            BenchError: it did not wait for any in time.
        """
        names: list[str] = []

        def waits() -> bool:
            answered = get(self.port, "/health/migrations")[1]
            names[:] = [each["application"] for each in json.loads(answered or "{}").get("blocked_by", [])]
            return bool(names)

        until(waits, f"{self.name} waits for older builds")
        return names

    def stop(self) -> None:
        """Send SIGTERM and wait for the end of the process.

        Raises:
            BenchError: it did not end within 60 s.
        """
        self.program.send(SIGTERM)
        self.program.wait(STOP_SECONDS)

    def _is_ready(self) -> bool:
        return get(self.port, "/health/ready")[0] == 200
