"""The standard streams of a command: standard output has the result only, and no stream can stop a migration.

A reader may close its pipe, a disk may be full, a descriptor may be closed from the start. None of that may end a
revision in the middle, or give a database's socket the number of a descriptor that libraries write messages to.
"""

from __future__ import annotations

import io
import logging
import os
import sys
import threading
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


def occupy() -> frozenset[int]:
    """Open /dev/null for each descriptor from 0 to 2 that is closed; returns their numbers.

    Otherwise a database's socket would get that number, and text for standard error would go into it.
    """
    missing = set()
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
        missing.add(number)
    os.close(number)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if number in missing and getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w" if number else "r", closefd=False))
    return frozenset(missing)


@cache
def claim_stdout() -> TextIO:
    """Reserve standard output for the result, and return its stream; a second call returns the same.

    Other output goes to standard error from now on: that of `print`, of libraries that kept the stream, and of child
    processes. Text that cannot be written is dropped; otherwise a revision that prints would fail if its reader left.
    """
    result = os.fdopen(os.dup(1), "w", encoding=sys.stdout.encoding, errors="backslashreplace")
    with suppress(OSError):
        sys.stdout.flush()
    os.dup2(2, 1)
    sys.stdout, sys.stderr = _text(1, sys.stderr.encoding), _text(2, sys.stderr.encoding)
    return result


def log_what_is_printed() -> None:
    """Log each line that Python code prints from now on."""
    sys.stdout, sys.stderr = _LoggedStream(1, "stdout"), _LoggedStream(2, "stderr")


def deliver(text: str, stream: TextIO | None = None) -> OSError | None:
    """Write a line to `stream`, by default standard output; returns the error if that failed.

    A closed pipe is not a failure: its reader has read enough.
    """
    stream = stream or sys.stdout
    try:
        stream.write(f"{text}\n")
        stream.flush()
    except OSError as error:
        # otherwise the rest of the buffer would be written, and fail, again at the end of the process
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), stream.fileno())
        return None if isinstance(error, BrokenPipeError) else error
    return None


class _DroppingFile(io.FileIO):
    """A descriptor that drops what cannot be written."""

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            # a descriptor that does not block may return None
            return super().write(data) or memoryview(data).nbytes
        except OSError:
            return memoryview(data).nbytes


class _LoggedStream(io.TextIOWrapper):
    """A stream that logs its lines."""

    def __init__(self, descriptor: int, name: str) -> None:
        super().__init__(_buffer(descriptor), encoding="utf-8", errors="backslashreplace", line_buffering=True)
        self._log = logging.getLogger(f"{__package__}.{name}")
        self._log.setLevel(logging.INFO)
        self._unfinished = ""
        self._lock = threading.Lock()
        self._here = threading.local()

    def isatty(self) -> bool:
        """Return False: a log is not a terminal, wherever it is shown."""
        return False

    def write(self, text: str) -> int:
        """Log the lines that are complete."""
        if getattr(self._here, "logging", False):  # logging reports a line that a handler could not write
            return super().write(text)
        with self._lock:
            *lines, self._unfinished = (self._unfinished + text).split("\n")
        self._log_lines(lines)
        return len(text)

    def flush(self) -> None:
        """Log an unfinished line as it is."""
        if not getattr(self._here, "logging", False):
            with self._lock:
                line, self._unfinished = self._unfinished, ""
            self._log_lines([line])
        super().flush()

    def _log_lines(self, lines: list[str]) -> None:
        # without the lock: a handler has its own
        self._here.logging = True
        try:
            for line in filter(str.strip, lines):
                self._log.info("%s", line, extra={"event": "printed"})
        finally:
            self._here.logging = False


def _text(descriptor: int, encoding: str) -> TextIO:
    return io.TextIOWrapper(_buffer(descriptor), encoding=encoding, errors="backslashreplace", line_buffering=True)


def _buffer(descriptor: int) -> io.BufferedWriter:
    return io.BufferedWriter(_DroppingFile(descriptor, "w", closefd=False))
