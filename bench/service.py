"""Instances of the service in `apps`, and the moment of an instance's first answer."""

from __future__ import annotations

import http.client
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.apps.ready import FILE
from bench.errors import BenchError
from bench.process import Program
from bench.spread import Usage
from devtools.ports import HOST, free_port

ANSWER_SECONDS = 120.0
AGAIN_SECONDS = 0.002


class Instance:
    """One `uvicorn bench.apps.VARIANT:app`, started by the constructor.

    No request is sent before it has noted that it is ready: an answer 503 costs CPU time as well.
    """

    def __init__(self, variant: str, environment: Mapping[str, str], folder: Path) -> None:
        self.variant = variant
        self.port = free_port()
        self._noted = Path(tempfile.mkdtemp(dir=folder)) / "ready"
        uvicorn = [
            sys.executable,
            "-m",
            "uvicorn",
            f"bench.apps.{variant}:app",
            "--host",
            HOST,
            "--port",
            str(self.port),
        ]
        self.program = Program(uvicorn, {**environment, FILE: str(self._noted)}, folder)

    def ready_at(self) -> float:
        """Wait until the instance is ready, and return when it noted that, in seconds since 1970.

        Raises:
            BenchError: it ended, or was not ready within 120 s.
        """
        self._wait(self._noted.exists, "was not ready")
        return float(self._noted.read_text())

    def first_200(self, path: str) -> float:
        """Return the seconds from the start of the process to its first answer 200 to GET `path`.

        Raises:
            BenchError: it ended, or did not answer 200 within 120 s.
        """
        self._wait(self._noted.exists, "was not ready")
        self._wait(lambda: get(self.port, path)[0] == 200, f"did not answer 200 to {path}")
        return time.monotonic() - self.program.started

    def _wait(self, condition: Callable[[], bool], problem: str) -> None:
        deadline = time.monotonic() + ANSWER_SECONDS
        while not condition():
            if self.program.has_ended:
                raise BenchError(f"{self.program} exited with {self.program.code}: {self.program.last_words()}")
            if time.monotonic() > deadline:
                raise BenchError(f"{self.program} {problem} within {ANSWER_SECONDS:.0f} s: {self.program.last_words()}")
            time.sleep(AGAIN_SECONDS)

    def phase(self) -> str | None:
        """Return the phase of /health/migrations, or None while the port is closed."""
        _, body = get(self.port, "/health/migrations")
        return json.loads(body)["phase"] if body else None


def get(port: int, path: str) -> tuple[int | None, bytes]:
    """Return status and body of a GET request to this machine; the status is None while the port is closed."""
    connection = http.client.HTTPConnection(HOST, port, timeout=ANSWER_SECONDS)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException):
        return None, b""
    finally:
        connection.close()


def start_together(
    variant: str, how_many: int, environment: Mapping[str, str], folder: Path, path: str = "/items"
) -> Usage:
    """Start instances at once; return the wall time to the last one's first 200, and the CPU time of all of them.

    They are killed when all have answered, so that the CPU time has no shutdown in it.
    """
    instances: list[Instance] = []
    with ThreadPoolExecutor(how_many) as threads:
        try:
            instances += [Instance(variant, environment, folder) for _ in range(how_many)]
            walls = list(threads.map(lambda instance: instance.first_200(path), instances))
        finally:
            usages = [instance.program.end() for instance in instances]
    return Usage(max(walls), sum(u.cpu_seconds for u in usages), max(u.peak_bytes for u in usages))
