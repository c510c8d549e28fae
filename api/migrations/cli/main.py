"""The command line of `./migrate.sh` (`python -m api.migrations`); it uses the lock and history of the instances."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any, NoReturn, TypeVar

from ..assembly import Assembly
from ..errors import COMMAND, Cancelled, MigrationError
from ..execution.error_translation import describe
from ..logs import bind_log_context
from ..runtime import streams
from ..runtime.process_end import leave
from ..runtime.signals import Signals
from ..settings import MigrationSettings
from ..settings.unread import warn_of_unread_settings
from . import commands, output
from .each_scope import Command
from .results import Result

T = TypeVar("T")

log = logging.getLogger(__name__)

EXIT_CODES = """exit codes:
  0  done, or at head         1  failed, or findings     2  usage or settings
  3  not at head (check)      4  the wait budget ended, or a budget while another session or old instance blocked it
  5  database unreachable, or the database, Redis or Kubernetes refused the login
  6  lock or hold lost        7  ahead, diverged, dirty, or tables without a revision; a release may not run on the
                                 schema (check --for-rollback)
  130, 143  stopped by a signal, rolled back
If Redis or Kubernetes does not answer, the command retries until the wait budget ends, and exits with 4.
"""


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code. Only the result is written to standard output."""
    missing = streams.occupy()
    arguments = _parser().parse_args(_words(sys.argv[1:] if argv is None else argv))
    out = streams.claim_stdout()
    log_settings = MigrationSettings.load_partial("log_format", "log_level", "instance", "release")
    output.log_to_stderr(log_settings, quiet=arguments.json)
    error_output: dict[str, Any] = {"as_json": arguments.json, "logged": log_settings.log_format == "json"}
    error_output |= {"out": out, "no_stderr": 2 in missing}
    stop = Signals()
    try:
        warn_of_unread_settings()
        result = (
            arguments.command(arguments)
            if arguments.command in (commands.adopt, commands.lint)
            else _execute(_assembly(arguments), arguments, stop)
        )
    except MigrationError as error:
        output.complain(error, **error_output)
        return 128 + stop.received if stop.received else error.exit_code
    except KeyboardInterrupt:  # before the run, which has its own handler, or at the confirmation
        output.complain(Cancelled("stopped by SIGINT; nothing was changed"), **error_output)
        return 128 + signal.SIGINT
    written = output.show(result, as_json=arguments.json, out=out)
    return result.exit_code or (0 if written else 1)


def run() -> NoReturn:
    """Run one command and end the process with its exit code."""
    leave(main())


def _assembly(arguments: argparse.Namespace) -> Assembly:
    ambiguous, may_be_empty = arguments.command is commands.doctor, arguments.command is commands.revision
    assembly = Assembly.build(_settings(arguments), ambiguous=ambiguous, may_be_empty=may_be_empty)
    if arguments.x:
        assembly.revisions.config.cmd_opts = argparse.Namespace(x=arguments.x)
    return assembly


def _execute(assembly: Assembly, arguments: argparse.Namespace, stop: Signals) -> Result:
    if arguments.command is commands.downgrade:
        plan = _run(commands.plan_downgrade, assembly, arguments, stop)
        if not plan.steps:
            return Result(message="nothing to undo")
        output.confirm(plan.steps, assembly.revisions.describe, yes=arguments.yes)
        arguments = argparse.Namespace(**{**vars(arguments), "revision": plan.stays or arguments.revision})
    command: Command = arguments.command
    return _run(command, assembly, arguments, stop)


def _run(
    command: Callable[[Assembly, argparse.Namespace], Awaitable[T]],
    assembly: Assembly,
    arguments: argparse.Namespace,
    stop: Signals,
) -> T:
    async def work() -> T:
        bind_log_context(assembly.tracker)
        return await command(assembly, arguments)

    try:
        with output.progress(assembly.tracker, quiet=arguments.json) as tick:
            return stop.run(work, tick)
    except MigrationError:
        raise
    except (Exception, asyncio.CancelledError) as error:
        if stop.received:
            raise Cancelled.by_signal(stop.received) from None
        log.error("This is a bug in the migrations package", exc_info=error, extra={"event": "bug"})
        raise MigrationError(f"unexpected: {describe(error)}") from error


def _settings(arguments: argparse.Namespace) -> MigrationSettings:
    timeout = getattr(arguments, "timeout", None)
    settings = MigrationSettings.load()
    if timeout is None:
        return settings
    # not checked against the other settings: the operator may wait for less than a hold's ttl
    return settings.model_copy(update={"wait_seconds": timeout, "run_seconds": min(timeout, settings.run_seconds)})


def _words(given: list[str]) -> list[str]:
    """Return the arguments with `help` and `help upgrade` as `--help` and `upgrade --help`."""
    return [*given[1:2], "--help"] if given[:1] == ["help"] else given


def _parser() -> argparse.ArgumentParser:
    parser = output.Parser(
        prog=COMMAND.removeprefix("./"),
        description="Migrate the database under the lock that the instances use at start-up.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        # `downgrade -1` is an argument, and only `-h` may look like an option
        allow_abbrev=False,
    )
    subparsers = parser.add_subparsers(required=True, metavar="command")

    add = partial(_add, subparsers)
    up = add("upgrade", commands.upgrade, waits=True)
    up.add_argument("revision", nargs="?", default="head", help="the last revision to apply, or +N (default: head)")
    up.add_argument("--backup", action="store_true", help="make a backup first, if revisions are pending")
    despite = "run a contract revision even if instances of builds that need what it drops are connected"
    up.add_argument("--ignore-old-instances", action="store_true", help=despite)
    for saving in (up, add("backup", commands.backup, waits=True)):
        saving.add_argument("--to", metavar="DIR", help="folder of the backup, instead of MIGRATION_BACKUP_DIR")
    _add_plan(add("plan", commands.plan))
    down = add("downgrade", commands.downgrade, waits=True)
    down.add_argument("revision", help="the revision that stays, base, or -N for the last N")
    down.add_argument("--yes", action="store_true", help="do not ask for confirmation")
    add("current", commands.current)
    add("history", commands.history).add_argument("--limit", type=_count, default=50, help="newest N (default 50)")
    add("status", commands.status)
    add("doctor", commands.doctor)
    add("unlock", commands.unlock).add_argument("--force", action="store_true", help="terminate it anyway")
    look = add("adopt", commands.adopt)
    look.add_argument("--write", action="store_true", help="make the changes that are safe")
    look.add_argument("--update", metavar="FOLDER", help="compare a copied folder of the package with a newer one")
    look.add_argument("--overwrite", action="store_true", help="also replace changed files, and keep them as *.orig")
    made = add("revision", commands.revision)
    made.add_argument("message", help="what the revision does, for its first line and its file name")
    made.add_argument("--empty", action="store_true", help="write a file without a comparison with the database")
    _add_lint(add("lint", commands.lint))
    back = "whether this release, or the release at this revision, may run on the schema as it is"
    add("check", commands.check).add_argument("--for-rollback", metavar="RELEASE|REV", help=back)
    add("wait", commands.wait, waits=True)
    add("stamp", commands.stamp, waits=True).add_argument("revision", help="the revision, or base")
    how = add("repair", commands.repair, waits=True).add_mutually_exclusive_group(required=True)
    how.add_argument("--rerun", action="store_true", help="run the half-applied revision again at the next upgrade")
    how.add_argument("--stamp", action="store_true", help="declare the half-applied revision done")
    return parser


def _add_plan(plan: argparse.ArgumentParser) -> None:
    plan.add_argument("revision", nargs="?", default="head", help="the last revision, or +N (default: head)")
    plan.add_argument("--on", metavar="URL", help="make the clone on this PostgreSQL server, instead of the same one")
    plan.add_argument("--rules", action="store_true", help="make no clone")
    plan.add_argument("--sql", action="store_true", help="show the statements in full, with their values")


def _add(subparsers: Any, name: str, command: Callable[..., Any], *, waits: bool = False) -> argparse.ArgumentParser:
    words = " ".join((command.__doc__ or "").split())
    summary = (command.__doc__ or "").partition("\n")[0]
    one: argparse.ArgumentParser = subparsers.add_parser(name, help=summary, description=words, allow_abbrev=False)
    one.add_argument("--json", action="store_true", help="print the result as JSON")
    one.add_argument("-x", action="append", metavar="NAME=VALUE", help="for env.py: context.get_x_argument()")
    if waits:
        limit = "limit of the wait, instead of MIGRATION_WAIT_SECONDS, and of the run"
        one.add_argument("--timeout", type=_seconds, metavar="SECONDS", help=limit)
    one.set_defaults(command=command)
    return one


def _add_lint(one: argparse.ArgumentParser) -> None:
    words = "an id, a range AFTER:LAST, or a revision file (default: the pending revisions, or all)"
    one.add_argument("revision", nargs="*", help=words)
    one.add_argument("--all", action="store_true", help="check all revisions")
    one.add_argument("--since", metavar="GITREF", help="check the files that changed since a branch, tag or commit")
    one.add_argument("--format", choices=("text", "json", "sarif", "github"), default="text", help="default: text")
    one.add_argument("--squawk", action="store_true", help="also run squawk (pip install squawk-cli) on the SQL")
    one.add_argument("--rules", action="store_true", help="list the rules, and check nothing")


def _count(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) <= 10_000:
        raise argparse.ArgumentTypeError("must be a number from 1 to 10000")
    return int(text)


def _seconds(text: str) -> float:
    with suppress(ValueError):
        seconds = float(text)
        if seconds > 0:
            return seconds
    raise argparse.ArgumentTypeError("must be a number of seconds, more than 0")
