"""The command line of `./dev up`; only the standard library, because a mistake is told before anything is installed."""

import argparse
import sys
from collections.abc import Sequence
from difflib import get_close_matches

MOST_INSTANCES = 32
WHAT_IT_DOES = """
Starts N instances of the service at once on one database, shows how one of them migrates it while the others wait,
and serves until Ctrl-C. The database is DATABASE_URL, from the environment or .env; without it, a PostgreSQL server
that ./dev up starts and stops itself, with its data in .data.
"""


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line.

    Raises:
        SystemExit: it is invalid, or asks for help; argparse has printed it.
    """
    parser = argparse.ArgumentParser(prog="./dev up", description=WHAT_IT_DOES, allow_abbrev=False)
    parser.add_argument("--scale", type=_scale, default=3, metavar="N", help="how many instances (default 3)")
    parser.add_argument("--fresh", action="store_true", help="first delete the data that ./dev up keeps in .data")
    parser.add_argument(
        "--check", action="store_true", help="stop once all are ready; exit 1 unless exactly one migrated"
    )
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        close = get_close_matches(unknown[0].partition("=")[0], ["--scale", "--fresh", "--check", "--help"], 1)
        parser.error(f"unknown argument: {unknown[0]}" + (f". Did you mean {close[0]}?" if close else ""))
    return options


def _scale(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= MOST_INSTANCES:
        raise argparse.ArgumentTypeError(f"must be a number from 1 to {MOST_INSTANCES}, not {text!r}")
    return int(text)


if __name__ == "__main__":
    parse(sys.argv[1:])
