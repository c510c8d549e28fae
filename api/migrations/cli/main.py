"""`python -m api.migrations …`, which is what `./migrate.sh` runs: the operator's way to the same lock and history."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
import time
from concurrent.futures import TimeoutError as NotYet
from contextlib import suppress
from typing import Any, NoReturn

from ..assembly import Assembly
from ..errors import Cancelled, MigrationError
from ..execution.error_translation import describe
from ..logs import bind_log_context
from ..runtime import streams
from ..runtime.thread import MigrationThread
from ..settings import MigrationSettings
from ..settings.unread import warn_of_unread_settings
from . import commands
from . import output as terminal
from .commands import Command, Result

log = logging.getLogger(__name__)

EXIT_CODES = """exit codes:
  0  done, or at head         1  failed                  2  usage or settings
  3  not at head (check)      4  the wait budget ended, or the run's while somebody had a table
  5  database unreachable, or it, Redis or Kubernetes refused the login
  6  hold lost                7  ahead, diverged, dirty  130, 143  stopped by a signal, rolled back
Redis or Kubernetes that does not answer is waited for: 4 when the wait budget ends.
"""

CANCEL_SECONDS = 1.5
"""How long a signal waits for the rollback; after that the process goes, and the server rolls back."""


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code. Standard output carries the result alone, to the end of the process."""
    missing = streams.occupy()
    arguments = _parser().parse_args(_words(sys.argv[1:] if argv is None else argv))
    out = streams.claim_stdout()
    shape = MigrationSettings.load_partial("log_format", "log_level", "instance", "release")
    terminal.log_to_stderr(shape, quiet=arguments.json)
    how: dict[str, Any] = {"as_json": arguments.json, "logged": shape.log_format == "json"}
    how |= {"out": out, "no_stderr": 2 in missing}
    stop = _Signals()
    try:
        warn_of_unread_settings()
        assembly = Assembly.build(_settings(arguments), ambiguous=arguments.command is commands.doctor)
        if arguments.x:
            assembly.revisions.config.cmd_opts = argparse.Namespace(x=arguments.x)
        result = _carry_out(assembly, arguments, stop)
    except MigrationError as error:
        terminal.complain(error, **how)
        return 128 + stop.received if stop.received else error.exit_code
    except KeyboardInterrupt:  # a run has its own handler: this is before it, or at the question
        terminal.complain(Cancelled("stopped by SIGINT; nothing was changed"), **how)
        return 128 + signal.SIGINT
    written = terminal.show(result, as_json=arguments.json, out=out)
    return int(result.get("exit_code", 0)) or (0 if written else 1)


def _carry_out(assembly: Assembly, arguments: argparse.Namespace, stop: _Signals) -> Result:
    if arguments.command is commands.downgrade:
        planned = _run(commands.plan_downgrade, assembly, arguments, stop)
        plan, arguments.stays = planned["plan"], planned["stays"]
        if not plan:
            return {"message": "nothing to undo"}
        terminal.confirm(plan, assembly.revisions.describe, yes=arguments.yes)
    return _run(arguments.command, assembly, arguments, stop)


def _run(command: Command, assembly: Assembly, arguments: argparse.Namespace, stop: _Signals) -> Result:
    result: Result = {}

    async def work() -> None:
        bind_log_context(assembly.tracker)
        result.update(await command(assembly, arguments))

    thread = MigrationThread(work)
    with stop.cancelling(thread), terminal.progress(assembly.tracker, quiet=arguments.json) as tick:
        thread.start()
        while True:
            try:
                thread.outcome.result(timeout=0.1)
                return result
            except NotYet:
                tick()
                stop.enforce()
            except MigrationError:
                raise
            except (Exception, asyncio.CancelledError) as error:
                stop.explain(error)


class _Signals:
    """SIGINT and SIGTERM cancel the run; it rolls back. If it cannot be reached, the process goes."""

    def __init__(self) -> None:
        self.received = 0
        self._give_up = float("inf")
        self._thread: MigrationThread | None = None

    def cancelling(self, thread: MigrationThread) -> _Signals:
        self._thread = thread
        return self

    def __enter__(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._handle)

    def __exit__(self, *_: object) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.default_int_handler)

    def enforce(self) -> None:
        """End the process if the run does not end."""
        if time.monotonic() > self._give_up:
            name = signal.Signals(self.received).name
            message = "Cancelled: stopped by %s; the run did not stop in time, the server rolls it back"
            log.error(message, name, extra={"event": "not_stopped"})
            os._exit(128 + self.received)

    def explain(self, error: BaseException) -> NoReturn:
        """Say why the run ended without an error of its own."""
        if self.received:
            name = signal.Signals(self.received).name
            raise Cancelled(f"stopped by {name}; what was not committed is rolled back, the lock is free") from None
        log.error("This is a bug in the migrations package", exc_info=error, extra={"event": "bug"})
        raise MigrationError(f"unexpected: {describe(error)}") from error

    def _handle(self, number: int, _frame: object) -> None:
        self.received = number
        self._give_up = min(self._give_up, time.monotonic() + CANCEL_SECONDS)
        if self._thread is not None:
            self._thread.cancel()


def _settings(arguments: argparse.Namespace) -> MigrationSettings:
    timeout = getattr(arguments, "timeout", None)
    settings = MigrationSettings.load()
    if timeout is None:
        return settings
    # not checked against the others again: who types it waits no longer, whatever a hold may last
    return settings.model_copy(update={"wait_seconds": timeout, "run_seconds": min(timeout, settings.run_seconds)})


def _words(given: list[str]) -> list[str]:
    """`help` and `help upgrade`, as many tools have them, are `--help` and `upgrade --help`."""
    return [*given[1:2], "--help"] if given[:1] == ["help"] else given


def _parser() -> argparse.ArgumentParser:
    parser = terminal.Parser(
        prog="migrate.sh",
        description="Migrate the database under the same lock as the instances at start-up.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        # `downgrade -1` is an argument, and only `-h` may look like an option
        allow_abbrev=False,
    )
    subparsers = parser.add_subparsers(required=True, metavar="command")

    def add(name: str, command: Command, *, waits: bool = False) -> argparse.ArgumentParser:
        words = " ".join((command.__doc__ or "").split())
        summary = (command.__doc__ or "").partition("\n")[0]
        one = subparsers.add_parser(name, help=summary, description=words, allow_abbrev=False)
        one.add_argument("--json", action="store_true", help="print the result as JSON")
        one.add_argument("-x", action="append", metavar="NAME=VALUE", help="for env.py: context.get_x_argument()")
        if waits:
            limit = "instead of MIGRATION_WAIT_SECONDS; the run may not last longer either"
            one.add_argument("--timeout", type=_seconds, metavar="SECONDS", help=limit)
        one.set_defaults(command=command)
        return one

    up = add("upgrade", commands.upgrade, waits=True)
    up.add_argument("revision", nargs="?", default="head", help="up to and with this one, or +N (default: head)")
    up.add_argument("--backup", action="store_true", help="if anything is pending, back the database up before")
    for saving in (up, add("backup", commands.backup, waits=True)):
        saving.add_argument("--to", metavar="DIR", help="folder of the backup instead of MIGRATION_BACKUP_DIR")
    down = add("downgrade", commands.downgrade, waits=True)
    down.add_argument("revision", help="a revision that stays, base, or -N for the last N")
    down.add_argument("--yes", action="store_true", help="do not ask")
    add("current", commands.current)
    add("history", commands.history).add_argument("--limit", type=_count, default=50, help="newest N (default 50)")
    add("status", commands.status)
    add("doctor", commands.doctor)
    add("unlock", commands.unlock).add_argument("--force", action="store_true", help="although it is getting on")
    add("check", commands.check)
    add("wait", commands.wait, waits=True)
    add("stamp", commands.stamp, waits=True).add_argument("revision")
    how = add("repair", commands.repair, waits=True).add_mutually_exclusive_group(required=True)
    how.add_argument("--rerun", action="store_true", help="the half-applied revision runs again at the next upgrade")
    how.add_argument("--stamp", action="store_true", help="the half-applied revision is declared done")
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) <= 10_000:
        raise argparse.ArgumentTypeError("a number from 1 to 10000")
    return int(text)


def _seconds(text: str) -> float:
    with suppress(ValueError):
        seconds = float(text)
        if seconds > 0:
            return seconds
    raise argparse.ArgumentTypeError("must be a number of seconds, more than 0")
