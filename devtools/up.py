"""`./dev up`: starts N instances of the service at once and shows that exactly one of them migrates."""

import argparse
import asyncio
import fcntl
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from devtools.board import board_for, console, summary
from devtools.database import UsageError, open_database
from devtools.fleet import Fleet, problems
from devtools.instance import Instance
from devtools.ports import listeners_from
from devtools.postgres import PostgresError

PROJECT = Path(__file__).resolve().parent.parent
DATA = PROJECT / ".data"

FIRST_PORT = 8000
MOST_INSTANCES = 32
MARGIN_SECONDS = 30.0
"""What an instance may take beyond its own budget for waiting: to start, and to say that it gave up."""

DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line.

    Raises:
        SystemExit: it makes no sense; argparse has said why.
    """
    parser = argparse.ArgumentParser(prog="./dev up", description=__doc__)
    parser.add_argument("--scale", type=_scale, default=3, metavar="N", help="how many instances (default 3)")
    parser.add_argument("--fresh", action="store_true", help="start over with an empty embedded database")
    parser.add_argument(
        "--check", action="store_true", help="stop once all are ready; exit 1 unless exactly one migrated"
    )
    return parser.parse_args(arguments)


def _scale(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= MOST_INSTANCES:
        raise argparse.ArgumentTypeError(f"a number from 1 to {MOST_INSTANCES}, not {text!r}")
    return int(text)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold this folder for one `./dev up`: a second one would share its logs and its database's data.

    Raises:
        UsageError: another one runs.
    """
    folder.mkdir(exist_ok=True)
    with (folder / "up.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise UsageError("another ./dev up runs in this folder; stop it first") from exc
        yield


def wait_budget_seconds() -> float:
    """How long the instances may take, from the setting they read themselves."""
    try:
        return float(os.environ.get("MIGRATION_WAIT_SECONDS") or 300) + MARGIN_SECONDS
    except ValueError:
        return MARGIN_SECONDS  # the instances will say that this setting is malformed, and exit


async def up(fleet: Fleet, database_url: str, screen: Console, *, check: bool) -> int:
    """Start the fleet, show it, and serve until a signal or, with `check`, until it can be judged; the exit code."""
    budget = wait_budget_seconds()
    try:
        await fleet.start({**os.environ, "DATABASE_URL": database_url})
        with board_for(screen) as board:
            await fleet.watch(board.show, budget)
        found = problems(fleet.instances, budget)
        _tell(screen, [*summary(fleet.instances), *found])
        return await _serve(fleet, screen) if not check else FAILED if found else DONE
    finally:
        await fleet.stop()


async def _serve(fleet: Fleet, screen: Console) -> int:
    """Serve until somebody stops us, which is how this is meant to end; that nobody serves any more is not."""
    _tell(screen, ["", f"Logs: {DATA / 'logs'}. Ctrl-C stops all of them."])
    try:
        await fleet.serve(lambda lost: _tell(screen, [f"{lost.name} {lost.report.words}", *_indented(lost)]))
    except asyncio.CancelledError:
        _tell(screen, ["", "Stopping"])
        return DONE
    return FAILED


def _indented(instance: Instance) -> list[str]:
    return [f"    {line}" for line in instance.last_words]


def _tell(screen: Console, lines: Sequence[str]) -> None:
    for line in lines:
        screen.print(line, markup=False, highlight=False, soft_wrap=True)


async def until_stopped(work: Callable[[], Coroutine[None, None, int]]) -> int:
    """Do `work`; SIGINT and SIGTERM cancel it, and it cleans up."""
    task = asyncio.create_task(work())
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel)
    try:
        return await task
    except asyncio.CancelledError:
        return INTERRUPTED


def main(arguments: Sequence[str]) -> int:
    """Run the command; its exit code."""
    options = parse(arguments)
    # what is started before the event loop runs has to be stopped on SIGTERM as well
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return _run(options, console())
    except (UsageError, PostgresError) as exc:
        print(f"dev up: {exc}", file=sys.stderr)
        return USAGE if isinstance(exc, UsageError) else FAILED
    except KeyboardInterrupt:
        return INTERRUPTED


def _run(options: argparse.Namespace, screen: Console) -> int:
    with alone(DATA), open_database(DATA, os.environ, fresh=options.fresh) as database:
        how_many = f"{options.scale} instances at once" if options.scale > 1 else "one instance"
        _tell(screen, [f"Database: {database.description}", f"Starting {how_many}", ""])
        fleet = Fleet(listeners_from(FIRST_PORT), options.scale, DATA / "logs")
        return asyncio.run(until_stopped(lambda: up(fleet, database.url, screen, check=options.check)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
