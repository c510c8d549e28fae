"""The format of log lines: text for people on a console, or one JSON object each for a collector.

In console mode the package adds a handler that writes only if the application did not configure logging. In JSON mode
each handler of the root logger, the package, Alembic and uvicorn that writes to standard output or error gets
`JsonFormatter`; files and other handlers keep theirs. Whatever formats the package's lines, their control characters
are escapes (`Escaper`): a line may quote an exception, or a name from the database.

A context variable says which instance a line belongs to, because two applications in one process share their loggers.
Lines from outside an instance's work, such as uvicorn's access log, name the application that was configured last.
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

from .core.status import Tracker
from .settings import MigrationSettings
from .text.printable import printable

SHAPED = ("", __package__ or "", "alembic", "uvicorn", "uvicorn.error", "uvicorn.access")
"""The loggers whose handlers change in JSON mode; the first is the root."""

_NOT_EXTRA = {*vars(logging.makeLogRecord({})), "message", "asctime", "color_message"}
"""The attributes of every record, and uvicorn's second copy of the message, with colours."""

_speaker: ContextVar[Tracker | None] = ContextVar("migrations_speaker", default=None)


def bind_log_context(tracker: Tracker) -> None:
    """From now on, lines of this task and of the tasks that it starts name this instance."""
    _speaker.set(tracker)


class JsonFormatter(logging.Formatter):
    """Formats a record as one JSON object: time, level, logger, message, instance, the record's fields, exception.

    `tracker` names the instance of lines from outside an instance's work. `uvicorn --log-config` and `dictConfig` may
    use this class too.
    """

    def __init__(self, tracker: Tracker | None = None) -> None:
        super().__init__()
        self._tracker = tracker

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; never raises."""
        fields = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _message(record),
        }
        extra = {name: value for name, value in vars(record).items() if name not in _NOT_EXTRA}
        # first for their place in the line, last because no extra field may replace them
        return _dump({**fields, **self._instance(), **extra, **self._trace(record), **fields})

    def _instance(self) -> dict[str, Any]:
        speaker = _speaker.get()
        tracker = speaker or self._tracker
        if tracker is None:
            return {}
        status = tracker.status
        known = {"instance": status.instance, "strategy": status.strategy, "release": status.release}
        if speaker is not None:
            known["revision"] = status.progress.current
        return {name: value for name, value in known.items() if value}

    def _trace(self, record: logging.LogRecord) -> dict[str, str]:
        trace = {}
        if record.exc_info:
            trace["exception"] = self.formatException(record.exc_info)
        elif record.exc_text:
            trace["exception"] = record.exc_text
        if record.stack_info:
            trace["stack"] = self.formatStack(record.stack_info)
        return trace


class PlainFormatter(logging.Formatter):
    """Formats a record for people, with control characters as escapes."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """Return the line without a traceback."""
        return printable(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802 - logging's name
        """Return the traceback, in several lines; the text of each exception is in one, so it cannot forge another."""
        return printable("\n".join(map(_in_its_lines, traceback.format_exception(*ei))), keep="\n")


class Escaper(logging.Handler):
    """Makes the package's records printable for the application's handlers; it is the package's first handler."""

    def emit(self, record: logging.LogRecord) -> None:
        """Change the record, unless it is printable."""
        text = _message(record)
        if not text.isprintable():
            record.msg, record.args = printable(text), ()
        if record.exc_info and not record.exc_text:
            # a formatter uses this instead of the exception
            record.exc_text = PlainFormatter().formatException(record.exc_info)


class ConsoleFormatter(PlainFormatter):
    """Formats a record for people, with the instance's name at the end."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """Return the line without a traceback."""
        speaker = _speaker.get()
        return super().formatMessage(record) + (printable(f" [{speaker.status.instance}]") if speaker else "")


def configure(settings: MigrationSettings, tracker: Tracker) -> None:
    """Apply `log_format` and `log_level`; may be repeated. Lines of no known instance name the one of `tracker`."""
    package = logging.getLogger(__package__)
    unheard = not package.hasHandlers()
    if settings.log_format == "json":
        to_json(tracker)
    elif unheard:
        # uvicorn configures only its own loggers
        handler = logging.StreamHandler()
        handler.setFormatter(ConsoleFormatter())
        package.addHandler(handler)
        package.propagate = False
    if package.propagate and not any(isinstance(handler, Escaper) for handler in package.handlers):
        package.handlers.insert(0, Escaper())
    if settings.log_level or unheard:
        package.setLevel((settings.log_level or "info").upper())


def to_json(tracker: Tracker) -> None:
    """From now on, logging and `warnings` write JSON to the standard output and error of the process."""
    root, formatter = logging.getLogger(), JsonFormatter(tracker)
    if not root.handlers:
        # without a handler, warnings go to logging's last resort, which has no formatter
        root.addHandler(logging.StreamHandler())
    for name in SHAPED:
        for handler in logging.getLogger(name).handlers:
            if getattr(handler, "stream", None) in {sys.stdout, sys.stderr}:
                handler.setFormatter(formatter)
    logging.captureWarnings(True)


def _in_its_lines(chunk: str) -> str:
    # a traceback's frames are indented, and its line about causes begins with a line break
    text = chunk.removesuffix("\n")
    return text if text.startswith((" ", "\n")) else text.replace("\n", "\\n")


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # the arguments do not fit the message
        return f"{_as_text(record.msg)} {_as_text(record.args)}"


def _dump(fields: dict[str, Any]) -> str:
    try:
        return json.dumps(fields, default=str, allow_nan=False)
    except Exception:
        # keys that are not strings, NaN, a circular reference, a broken __str__
        return json.dumps({str(name): _as_text(value) for name, value in fields.items()})


def _as_text(value: object) -> str:
    try:
        return value if isinstance(value, str) else repr(value)
    except Exception:
        return f"<{type(value).__name__}>"
