"""Output of `migrate.sh`: results on standard output, as text or JSON; progress and questions on standard error."""

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

from ..core.remedies import remedy_for
from ..core.status import Tracker
from ..errors import Cancelled, ConfigurationError, DatabaseUnreachable, in_full
from ..logs import PlainFormatter, to_json
from ..parts import new_tracker
from ..runtime.streams import deliver, log_what_is_printed
from ..settings import MigrationSettings
from ..text.printable import printable
from .results import Result, advice_lines

log = logging.getLogger(__name__)


def show(result: Result, *, as_json: bool, out: TextIO | None = None) -> bool:
    """Print a result to `out` (default: standard output); return whether it could be written."""
    text = json.dumps(result.as_json(), default=_jsonable) if as_json else "\n".join(map(printable, result.lines()))
    error = deliver(text, out)
    if error is not None:
        message = "The command is done, but its result could not be written to standard output: %s"
        log.error(message, error.strerror, extra={"event": "result_not_written"})
    return error is None


def complain(
    error: Exception, *, as_json: bool, logged: bool = False, out: TextIO | None = None, no_stderr: bool = False
) -> None:
    """Print an error: one line on standard error, or JSON on `out` (default: standard output).

    If the message of an error that may be retried has no remedy, the advice follows.

    Args:
        error: the error.
        as_json: whether the command prints JSON.
        logged: whether standard error has log lines in JSON; then the error is one of them.
        out: standard output, if not `sys.stdout`.
        no_stderr: whether the process has no standard error; then the line goes to `out`.
    """
    lines = [f"{type(error).__name__}: {error}"]
    document: dict[str, Any] = {"error": type(error).__name__, "message": str(error)}
    if isinstance(error, DatabaseUnreachable) and "To fix:" not in str(error):
        advice = remedy_for(type(error))
        lines, document = [*lines, *advice_lines(advice)], {**document, "advice": advice.as_json()}
    line = "\n".join(map(printable, lines))
    if (as_json or no_stderr) and deliver(json.dumps(document) if as_json else line, out) is None:
        return
    if logged:
        log.error("%s", error, extra={"event": "failed", "error": type(error).__name__})
    else:
        print(line, file=sys.stderr)


def confirm(plan: tuple[str, ...], describe: Callable[[str], str], *, yes: bool) -> None:
    """Print what a downgrade will undo, and ask on a terminal.

    Raises:
        Cancelled: the answer was no.
        ConfigurationError: stdin is not a terminal, and `--yes` was not passed.
    """
    if not yes and not sys.stdin.isatty():
        raise ConfigurationError("downgrade needs confirmation and stdin is not a terminal. To fix: pass --yes")
    print(f"This undoes {len(plan)} revision(s) and may delete the data that they added:", file=sys.stderr)
    for revision in plan:
        print(printable(f"  {describe(revision)}"), file=sys.stderr)
    if not yes and _asked("Go on? [y/N] ").strip().lower() not in {"y", "yes"}:
        raise Cancelled("nothing was changed")


@contextmanager
def progress(tracker: Tracker, *, quiet: bool) -> Iterator[Callable[[], None]]:
    """Show a progress bar if standard error is a terminal; yield the function that redraws it."""
    bar = None if quiet or not sys.stderr.isatty() else _bar()
    if bar is None:
        yield lambda: None
        return
    task = bar.add_task("…", total=None)

    def tick() -> None:
        status = tracker.status
        now = status.progress
        text = now.current or in_full(status.message or status.phase)
        bar.update(
            task, description=printable(f"{status.phase} {text}"), completed=now.applied, total=now.total or None
        )

    with bar:
        yield tick
        tick()


def log_to_stderr(settings: MigrationSettings, *, quiet: bool) -> None:
    """Log each event to standard error, as a short line without colours or as JSON.

    Args:
        settings: `log_format`, `log_level`, `instance` and `release`.
        quiet: whether to log only warnings and errors.
    """
    level = settings.log_level or "info"
    if quiet and level != "error":
        level = "warning"
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(PlainFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler])
    logging.getLogger("alembic").setLevel(logging.WARNING)
    if settings.log_format == "json":
        to_json(new_tracker(settings))
        log_what_is_printed()


class Parser(ArgumentParser):
    """A parser whose help may be cut off by its reader (`… --help | head -1`)."""

    def print_help(self, file: Any = None) -> None:
        """Write the help to `file` (default: standard output)."""
        error = deliver(self.format_help().rstrip("\n"), file)
        if error is not None:
            self.exit(1, f"The help could not be written to standard output: {error.strerror}\n")


def _asked(question: str) -> str:
    try:
        return input(question)
    except EOFError:  # Ctrl-D
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


def _jsonable(value: object) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        fields = asdict(value)
        # as at /health/migrations
        since = {"since": datetime.fromtimestamp(fields["since"], UTC)} if fields.get("since") is not None else {}
        return fields | since
    return value.isoformat() if isinstance(value, datetime) else str(value)
