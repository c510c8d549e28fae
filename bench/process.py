"""Programs that are measured: their wall and CPU time and their memory, from `wait4`, which counts every thread."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from bench.errors import BenchError
from bench.spread import Usage

LONGEST_SECONDS = 300.0
TAIL_LINES = 15


class Program:
    """One process from its start to its end; its output goes to a temporary file.

    Attributes:
        words: its command line.
        started: `time.monotonic()` at its start.
        started_at: the same moment in seconds since 1970.
        code: its exit code, once it has ended; negative for a signal.
    """

    def __init__(
        self, words: Sequence[str], environment: Mapping[str, str], folder: Path, stdin: int = subprocess.DEVNULL
    ) -> None:
        self.words = list(words)
        self.code: int | None = None
        self._usage = Usage(0.0)
        self._ended = threading.Event()
        self._output: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - read until this object is collected
        weakref.finalize(self, self._output.close)
        self.started, self.started_at = time.monotonic(), time.time()
        self._process = subprocess.Popen(
            self.words,
            cwd=folder,
            env=dict(environment),
            stdin=stdin,
            stdout=self._output,
            stderr=self._output,
            start_new_session=True,
        )
        # in a thread, so that its end is timed when it happens and not when somebody asks
        threading.Thread(target=self._collect, daemon=True).start()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        """Whether it has ended."""
        return self._ended.is_set()

    def wait(self, longest_seconds: float = LONGEST_SECONDS) -> Usage:
        """Wait for its end and return what it took; kills it after `longest_seconds`.

        Raises:
            BenchError: it did not end in time.
        """
        if not self._ended.wait(longest_seconds):
            self.end()
            raise BenchError(f"{self} did not end within {longest_seconds:.0f} s: {self.last_words()}")
        return self._usage

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process, unless it has ended."""
        if not self.has_ended:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def end(self) -> Usage:
        """Kill it, and what it has started, if it still runs; return what it took."""
        if not self.has_ended:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        self._ended.wait()
        return self._usage

    def output(self) -> str:
        """Return everything that it has written so far."""
        end = os.fstat(self._output.fileno()).st_size
        return os.pread(self._output.fileno(), end, 0).decode(errors="replace")

    def last_words(self) -> str:
        """Return the last lines of its output."""
        return "\n    ".join(["", *self.output().strip().splitlines()[-TAIL_LINES:]])

    def __str__(self) -> str:
        return " ".join(self.words)

    def _collect(self) -> None:
        _, status, spent = os.wait4(self.pid, 0)
        took = time.monotonic() - self.started
        self.code = self._process.returncode = os.waitstatus_to_exitcode(status)
        self._usage = Usage(took, spent.ru_utime + spent.ru_stime, spent.ru_maxrss * 1024)
        self._ended.set()


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
