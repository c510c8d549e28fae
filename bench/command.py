"""What the command lines of `./dev bench` and `./dev rollout` share: exit codes, numbers, the screen, and the end."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable

from rich.console import Console

from bench.errors import BenchError, Skipped
from devtools.postgres import PostgresError

DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130


def number(smallest: int, largest: int) -> Callable[[str], int]:
    """Return the type of an argument that is a number from `smallest` to `largest`."""

    def read(text: str) -> int:
        if not text.isascii() or not text.isdigit() or not smallest <= int(text) <= largest:
            raise argparse.ArgumentTypeError(f"must be a number from {smallest} to {largest}, not {text!r}")
        return int(text)

    return read


def screen() -> Console:
    """Return the console; a log has no width, so its lines break as on a wide screen."""
    console = Console()
    console.width = console.width if console.is_terminal else 160
    return console


def carry_out(name: str, work: Callable[[], int]) -> int:
    """Do the work of the command `name`, which ends in order at SIGTERM too, and return its exit code."""
    if sys.platform != "linux":
        print(f"{name}: CPU times are read from Linux's /proc. To fix: run it on Linux", file=sys.stderr)
        return USAGE
    # SIGTERM has to stop the servers too
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return work()
    except (BenchError, PostgresError, Skipped) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
