"""Programs that are measured: their wall and CPU time and their memory, from `wait4`, which counts every thread."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from bench.errors import BenchError
from bench.spread import Usage

LONGEST_SECONDS = 300.0
TAIL_LINES = 15


class Program:
    """One process from its start to its end; its output goes to a temporary file.

    Attributes:
        started: `time.monotonic()` at its start.
        started_at: the same moment in seconds since 1970.
        usage: what it took; set when it has ended.
    """

    def __init__(self, words: Sequence[str], environment: Mapping[str, str], folder: Path) -> None:
        self.words = list(words)
        self.usage: Usage | None = None
        self._output: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - read until the process is forgotten
        self.started, self.started_at = time.monotonic(), time.time()
        self._process = subprocess.Popen(
            self.words,
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=self._output,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def code(self) -> int | None:
        """The exit code, once `wait` has returned."""
        return self._process.returncode

    def has_ended(self) -> bool:
        """Return whether it has ended; does not wait."""
        return self.usage is not None or self._collect(os.WNOHANG)

    def wait(self, longest_seconds: float = LONGEST_SECONDS) -> Usage:
        """Wait for its end and return what it took; kills it after `longest_seconds`.

        Raises:
            BenchError: it did not end in time.
        """
        deadline = time.monotonic() + longest_seconds
        late = threading.Timer(longest_seconds, os.kill, (self.pid, signal.SIGKILL))
        late.start()
        try:
            if self.usage is None:
                self._collect(0)
        finally:
            late.cancel()
        if time.monotonic() >= deadline:
            raise BenchError(f"{self} did not end within {longest_seconds:.0f} s: {self.last_words()}")
        assert self.usage is not None
        return self.usage

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send it a signal, unless it has ended."""
        if not self.has_ended():
            os.kill(self.pid, number)

    def end(self) -> Usage:
        """Kill it if it still runs, and return what it took."""
        self.kill()
        return self.wait()

    def output(self) -> str:
        """Return everything that it has written so far."""
        end = os.fstat(self._output.fileno()).st_size
        return os.pread(self._output.fileno(), end, 0).decode(errors="replace")

    def last_words(self) -> str:
        """Return the last lines of its output."""
        return "\n    ".join(["", *self.output().strip().splitlines()[-TAIL_LINES:]])

    def __str__(self) -> str:
        return " ".join(self.words)

    def _collect(self, options: int) -> bool:
        pid, status, spent = os.wait4(self.pid, options)
        if pid == 0:
            return False
        took = time.monotonic() - self.started
        self._process.returncode = os.waitstatus_to_exitcode(status)
        self.usage = Usage(took, spent.ru_utime + spent.ru_stime, spent.ru_maxrss * 1024)
        return True


def run(words: Sequence[str], environment: Mapping[str, str], folder: Path) -> Usage:
    """Run a program to its end.

    Raises:
        BenchError: its exit code is not 0, or it did not end within 300 s.
    """
    program = Program(words, environment, folder)
    usage = program.wait()
    if program.code != 0:
        raise BenchError(f"{program} exited with {program.code}: {program.last_words()}")
    return usage
