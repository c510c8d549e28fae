"""The standard streams of a command: the result alone is on standard output, and no stream can stop a migration.

A reader may close its pipe, a disk may be full, a descriptor may be closed from the start. None of that may end a
revision in the middle, and none of it may put a database's socket where a library writes its messages.
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
    """Open /dev/null for each of the descriptors 0 to 2 that is closed; returns them.

    A database's socket would get that number otherwise, and whatever is written to standard error would go into it.
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
    """Keep standard output for the result: from here on, what anything else writes there goes to standard error.

    That holds for `print`, for libraries that kept the stream and for child processes. Returns the stream for the
    result, each time the same. What is printed and cannot be written is dropped, or a revision that prints would fail
    because its reader has left.
    """
    result = os.fdopen(os.dup(1), "w", encoding=sys.stdout.encoding, errors="backslashreplace")
    with suppress(OSError):
        sys.stdout.flush()
    os.dup2(2, 1)
    sys.stdout, sys.stderr = _text(_Unfailing(1, "w", closefd=False)), _text(_Unfailing(2, "w", closefd=False))
    return result


def log_what_is_printed() -> None:
    """From here on each line that Python code prints is a line of the log."""
    sys.stdout, sys.stderr = _Logged(1, "stdout"), _Logged(2, "stderr")


def deliver(text: str, stream: TextIO | None = None) -> OSError | None:
    """Write a line to `stream`, by default standard output; returns the error if that failed.

    A reader that has closed the pipe has read enough: that is no failure.
    """
    stream = stream or sys.stdout
    try:
        stream.write(f"{text}\n")
        stream.flush()
    except OSError as error:
        # what is left in the buffer would be written, and fail, once more at the end of the process
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), stream.fileno())
        return None if isinstance(error, BrokenPipeError) else error
    return None


class _Unfailing(io.FileIO):
    """A descriptor; what cannot be written to it is dropped."""

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            # None from a descriptor that does not block
            return super().write(data) or memoryview(data).nbytes
        except OSError:
            return memoryview(data).nbytes


class _Logged(io.TextIOWrapper):
    """A stream whose every line becomes one of the log."""

    def __init__(self, descriptor: int, name: str) -> None:
        raw = _Unfailing(descriptor, "w", closefd=False)
        super().__init__(io.BufferedWriter(raw), encoding="utf-8", errors="backslashreplace", line_buffering=True)
        self._log = logging.getLogger(f"{__package__}.{name}")
        self._log.setLevel(logging.INFO)
        self._begun = ""
        self._lock = threading.Lock()
        self._here = threading.local()

    def isatty(self) -> bool:
        """A log is no terminal, wherever it is shown."""
        return False

    def write(self, text: str) -> int:
        """Log the lines that are complete."""
        if getattr(self._here, "logging", False):  # logging reports a line that a handler could not write
            return super().write(text)
        with self._lock:
            *lines, self._begun = (self._begun + text).split("\n")
        self._say(lines)
        return len(text)

    def flush(self) -> None:
        """Log what there is of an unfinished line."""
        if not getattr(self._here, "logging", False):
            with self._lock:
                begun, self._begun = self._begun, ""
            self._say([begun])
        super().flush()

    def _say(self, lines: list[str]) -> None:
        # not under the lock: a handler has one too
        self._here.logging = True
        try:
            for line in filter(str.strip, lines):
                self._log.info("%s", line, extra={"event": "printed"})
        finally:
            self._here.logging = False


def _text(raw: io.FileIO) -> TextIO:
    return io.TextIOWrapper(
        io.BufferedWriter(raw), encoding=sys.stderr.encoding, errors="backslashreplace", line_buffering=True
    )
