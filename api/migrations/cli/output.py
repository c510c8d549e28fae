"""How `migrate.sh` talks: results on standard output (text or JSON), progress and questions on standard error."""

from __future__ import annotations

import json
import logging
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime
from typing import Any, TextIO

from ..assembly import new_tracker
from ..core.schema import invalid_index_advice
from ..core.status import Holder, Tracker
from ..errors import Cancelled, ConfigurationError
from ..logs import PlainFormatter, to_json
from ..runtime.streams import deliver, log_what_is_printed
from ..settings import MigrationSettings
from ..text.printable import printable

log = logging.getLogger(__name__)


def show(result: dict[str, Any], *, as_json: bool, out: TextIO | None = None) -> bool:
    """Print a result to `out`, by default standard output; returns whether it could be written."""
    text = json.dumps(result, default=_jsonable) if as_json else "\n".join(map(printable, _lines(result)))
    error = deliver(text, out)
    if error is not None:
        message = "The command is done, but its result could not be written to standard output: %s"
        log.error(message, error.strerror, extra={"event": "result_not_written"})
    return error is None


def complain(
    error: Exception, *, as_json: bool, logged: bool = False, out: TextIO | None = None, no_stderr: bool = False
) -> None:
    """Print what went wrong: one line on standard error, or JSON on `out`, by default standard output.

    With `logged` the line on standard error is one of the log, because all others there are. With `no_stderr` it is on
    `out`: the command was started without a standard error.
    """
    line = printable(f"{type(error).__name__}: {error}")
    told = json.dumps({"error": type(error).__name__, "message": str(error)}) if as_json else line
    if (as_json or no_stderr) and deliver(told, out) is None:
        return
    if logged:
        log.error("%s", error, extra={"event": "failed", "error": type(error).__name__})
    else:
        print(line, file=sys.stderr)


def confirm(plan: tuple[str, ...], describe: Callable[[str], str], *, yes: bool) -> None:
    """Print what a downgrade will undo, and ask on a terminal.

    Raises:
        Cancelled: the answer was no.
        ConfigurationError: there is no terminal to ask on, and `--yes` was not given.
    """
    if not yes and not sys.stdin.isatty():
        raise ConfigurationError("a downgrade asks before it starts, and this is no terminal; add --yes")
    print(f"This undoes {len(plan)} revision(s), and what they added to the data:", file=sys.stderr)
    for revision in plan:
        print(printable(f"  {describe(revision)}"), file=sys.stderr)
    if not yes and _asked("Go on? [y/N] ").strip().lower() not in {"y", "yes"}:
        raise Cancelled("nothing was changed")


@contextmanager
def progress(tracker: Tracker, *, quiet: bool) -> Iterator[Callable[[], None]]:
    """A bar by revision on a terminal; yields what is to be called now and then. Elsewhere the log lines do."""
    bar = None if quiet or not sys.stderr.isatty() else _bar()
    if bar is None:
        yield lambda: None
        return
    task = bar.add_task("…", total=None)

    def tick() -> None:
        status = tracker.status
        now = status.progress
        text = now.current or status.message or status.phase
        bar.update(
            task, description=printable(f"{status.phase} {text}"), completed=now.applied, total=now.total or None
        )

    with bar:
        yield tick
        tick()


def log_to_stderr(shape: MigrationSettings, *, quiet: bool) -> None:
    """One short line for each event, without colours, or JSON; warnings and errors only if `quiet`.

    Args:
        shape: `log_format`, `log_level` and who this is.
        quiet: what counts is on standard output.
    """
    level = shape.log_level or "info"
    if quiet and level != "error":
        level = "warning"
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(PlainFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler])
    logging.getLogger("alembic").setLevel(logging.WARNING)
    if shape.log_format == "json":
        to_json(new_tracker(shape))
        log_what_is_printed()


class Parser(ArgumentParser):
    """A parser whose help may be read by a program that stops in the middle."""

    def print_help(self, file: Any = None) -> None:
        """Write it to `file`, by default standard output."""
        error = deliver(self.format_help().rstrip("\n"), file)
        if error is not None:
            self.exit(1, f"The help could not be written to standard output: {error.strerror}\n")


def _asked(question: str) -> str:
    try:
        return input(question)
    except EOFError:  # Ctrl-D is no answer
        print(file=sys.stderr)
        return ""


def _bar() -> Any:
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
    except ImportError:
        return None
    columns = BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}", markup=False)
    return Progress(*columns, console=Console(stderr=True), transient=True)


def _lines(result: dict[str, Any]) -> Iterator[str]:
    if "schemas" in result:
        for name, one in result["schemas"].items():
            yield f"schema {name}:"
            yield from (f"  {line}" for line in _lines(one))
        return
    if "history" in result:
        yield from map(_attempt, result["history"]) if result["history"] else ("no history yet",)
        return
    yield from (f"{finding.verdict:4}  {finding.check:12}  {finding.message}" for finding in result.get("findings", ()))
    if result.get("steps"):
        yield from (f"  {step}" for step in result["steps"])
    yield str(result["message"])
    if "backups" in result:
        yield from _backups(result["backups"], result["restores_into"])
    yield from (f"  pending: {revision}" for revision in result.get("pending", ()))
    if "lock" in result:
        yield from _read_lock_status(result)
    if result.get("invalid_indexes"):
        yield invalid_index_advice(result["invalid_indexes"])


def _backups(made: list[Any], into: str) -> Iterator[str]:
    for backup in made:
        yield f"backup: {backup.path} ({backup.bytes} bytes, SHA-256 {backup.sha256})"
        yield f"to restore it {into}:"
        yield f"  {backup.restore}"
    if not made:
        yield "nothing was pending, so no backup was taken"


def _read_lock_status(result: dict[str, Any]) -> Iterator[str]:
    holder, does = result["lock"]["holder"], result["statement"] or result["retry"]
    who = f"held by {holder.instance}{_known(holder, hidden=bool(result['grant']))}" if holder else "free"
    yield f"lock {result['lock']['key']}: {who}{f': {does}' if does else ''}"
    if result.get("elected"):
        yield "elected: {leader} (until its hold ends; {hold})".format_map(result["elected"])
    yield from (f"  {blocker}" for blocker in result["blocked_by"])
    yield from (f"  session: {member.role} {member.instance} (pid {member.pid})" for member in result["fleet"])
    if result["grant"]:
        yield f"  what the holder is doing is hidden from this role; a superuser may: {result['grant']}"


def _known(holder: Holder, *, hidden: bool) -> str:
    # only PostgreSQL has states, and keeps them from some roles
    known = [f"pid {holder.pid}"] if holder.pid else []
    known += ["state hidden"] if hidden else [holder.state] if holder.state else []
    return f" ({', '.join(known)})" if known else ""


def _attempt(row: dict[str, Any]) -> str:
    started, finished = row["started_at"], row["finished_at"]
    took = f"{(finished - started).total_seconds():8.3f} s" if finished else "         -"
    # a table of an older version has no notes, and that of a try is for those who wait
    note = row.get("note") if row["direction"] == "backup" else None
    more = "".join(f"  {text}" for text in (row["error"], note) if text)
    user = f" ({row['database_user']})" if row["database_user"] else ""
    return (
        f"{started:%Y-%m-%d %H:%M:%S}Z {took}  {row['direction']:9} {row['outcome']:12} "
        f"{row['description']}  by {row['instance']}{user}{more}"
    )


def _jsonable(value: object) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        told = asdict(value)
        # as at /health/migrations
        since = {"since": datetime.fromtimestamp(told["since"], UTC)} if told.get("since") is not None else {}
        return told | since
    return value.isoformat() if isinstance(value, datetime) else str(value)
