"""Start N instances of the service at once and show that exactly one of them migrates."""

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

from api.migrations.errors import ConfigurationError
from api.migrations.settings import MigrationSettings
from api.settings import Settings
from devtools.arguments import parse
from devtools.board import board_for, console, summary
from devtools.database import Database, UsageError, open_database
from devtools.fleet import Fleet, problems, way_out
from devtools.instance import Instance
from devtools.ports import listeners_from
from devtools.postgres import PostgresError

PROJECT = Path(__file__).resolve().parent.parent
DATA = PROJECT / ".data"

FIRST_PORT = 8000
MARGIN_SECONDS = 30.0
"""How long an instance may take beyond its wait budget: to start, and to report that it failed."""

DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Lock this folder, because a second `./dev up` would share the logs and the database. Raises `UsageError`."""
    folder.mkdir(exist_ok=True)
    with (folder / "up.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise UsageError("another ./dev up runs in this folder. To fix: stop it") from exc
        yield


def wait_budget_seconds() -> float:
    """Return how long the instances may take, from their own setting; they report a malformed one and exit."""
    return MigrationSettings.load_partial("wait_seconds", "run_seconds").wait_seconds + MARGIN_SECONDS


def usual_settings() -> dict[str, str]:
    """Return the settings, unless they are set, that keep a failed instance up and show the whole error on its page."""
    wanted = {"on_failure": "hold", "show_errors": "true"}
    known = MigrationSettings.load_partial(*wanted).model_fields_set
    return {f"MIGRATION_{name.upper()}": value for name, value in wanted.items() if name not in known}


def given_database() -> Database | None:
    """Return the database of DATABASE_URL, also of `.env`. Raises `UsageError` if that file cannot be read."""
    try:
        url = Settings.load().database_url.get_secret_value()
    except ConfigurationError as error:
        raise UsageError(str(error)) from error
    place = "" if os.environ.get("DATABASE_URL") else " in .env"
    return Database(url, f"from DATABASE_URL{place}") if url else None


async def up(fleet: Fleet, database_url: str, screen: Console, *, check: bool) -> int:
    """Start the fleet and show it until a signal or, with `check`, until the result is known; return the exit code."""
    budget = wait_budget_seconds()
    try:
        await fleet.start({**os.environ, **usual_settings(), "DATABASE_URL": database_url})
        with board_for(screen) as board:
            await fleet.watch(board.show, budget)
        found = problems(fleet.instances, budget)
        _tell(screen, summary(fleet.instances, FIRST_PORT, [*found, *way_out(fleet.instances)]))
        return await _serve(fleet, screen) if not check else FAILED if found else DONE
    finally:
        await fleet.stop()


async def _serve(fleet: Fleet, screen: Console) -> int:
    """Serve until a signal stops the command; it fails if all instances have exited."""
    _tell(screen, ["", f"Logs: {(DATA / 'logs').relative_to(PROJECT)}. Ctrl-C stops all of them."])
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
    """Run `work`; SIGINT and SIGTERM cancel it, and it cleans up."""
    task = asyncio.create_task(work())
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel)
    try:
        return await task
    except asyncio.CancelledError:
        return INTERRUPTED


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    options = parse(arguments)
    # until the event loop handles SIGTERM, it must stop the database server
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return _run(options, console())
    except (UsageError, PostgresError) as exc:
        print(f"dev up: {exc}", file=sys.stderr)
        return USAGE if isinstance(exc, UsageError) else FAILED
    except KeyboardInterrupt:
        return INTERRUPTED


def _run(options: argparse.Namespace, screen: Console) -> int:
    with alone(DATA), open_database(DATA, given_database(), fresh=options.fresh) as database:
        how_many = f"{options.scale} instances at once" if options.scale > 1 else "one instance"
        _tell(screen, [f"Database: {database.description}", f"Starting {how_many}", ""])
        fleet = Fleet(listeners_from(FIRST_PORT), options.scale, DATA / "logs")
        return asyncio.run(until_stopped(lambda: up(fleet, database.url, screen, check=options.check)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
