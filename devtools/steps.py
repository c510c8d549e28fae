"""The steps before a command starts: a line for each, with its progress, its downloads and its duration.

Uses only the standard library, because it runs before anything is installed.
"""

import re
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

DOWNLOAD = re.compile(r"\s*Downloading (?P<name>\S+?)(?:-\d\S*)? \((?P<size>[\d.]+) ?(?P<unit>[kKMG])i?B\)")
"""A line of pip (`Downloading mypy-2.4.1-cp311….whl (15.4 MB)`) or of uv (`Downloading mypy (14.7MiB)`)."""
UNITS = {"k": 0.001, "K": 0.001, "M": 1.0, "G": 1000.0}
WORTH_A_LINE_MB = 1.0
TICK_SECONDS = 0.5


class Step:
    """One step: a line that is rewritten on a terminal; elsewhere a line at its start, its large downloads, its end."""

    def __init__(self, text: str, out: TextIO) -> None:
        self._text = text
        self._out = out
        self._live = out.isatty()
        self._started = time.monotonic()
        self._now = ""
        self._megabytes = 0.0

    def read(self, line: str) -> None:
        """Read a line of the installer, which may announce a download."""
        found = DOWNLOAD.match(line)
        if not found or ".metadata" in line:
            return
        size = float(found["size"]) * UNITS[found["unit"]]
        self._megabytes += size
        self._now = f"{found['name']} {size:.1f} MB"
        if not self._live and size >= WORTH_A_LINE_MB:
            self._print(f"     {self._now}")

    def begin(self) -> None:
        """Show that the step starts."""
        if not self._live:
            self._print(f"dev: {self._text}")

    def draw(self) -> None:
        """Draw the line again, cut to the width of the terminal."""
        # without the reason, which the last line has, so that the download has room in 80 columns
        line = f"dev: {self._text.partition(' (')[0]} … {self._elapsed:.0f} s  {self._now}"
        self._rewrite(line[: shutil.get_terminal_size().columns - 1])

    def end(self) -> None:
        """Show what the step took."""
        took = f"{f'{self._megabytes:.0f} MB in ' if self._megabytes else ''}{self._elapsed:.1f} s"
        if self._live:
            self._rewrite(f"dev: {self._text}: {took}\n")
        else:
            self._print(f"     {took}")

    @property
    def is_live(self) -> bool:
        """Whether the line can be drawn again."""
        return self._live

    @property
    def _elapsed(self) -> float:
        return time.monotonic() - self._started

    def _print(self, line: str) -> None:
        print(line, file=self._out, flush=True)

    def _rewrite(self, line: str) -> None:
        print(f"\r\x1b[2K{line}", end="", file=self._out, flush=True)


@contextmanager
def step(text: str, out: TextIO | None = None) -> Iterator[Step]:
    """Show a step on standard error while it lasts; if it fails, its line stays without a duration."""
    shown = Step(text, out or sys.stderr)
    shown.begin()
    over = threading.Event()
    ticker = threading.Thread(target=_tick, args=(shown, over), daemon=True)
    ticker.start()
    try:
        yield shown
    except BaseException:
        _stop(ticker, over)
        if shown.is_live:
            print(file=out or sys.stderr)
        raise
    _stop(ticker, over)
    shown.end()


def _tick(shown: Step, over: threading.Event) -> None:
    while shown.is_live and not over.is_set():
        shown.draw()
        over.wait(TICK_SECONDS)


def _stop(ticker: threading.Thread, over: threading.Event) -> None:
    over.set()
    ticker.join()
