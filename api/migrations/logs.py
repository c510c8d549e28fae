"""The shape of log lines: for people on a console, or one JSON object each for a collector.

In console mode an application that configured logging keeps what it has; only where nobody did the package gets a
handler, or nobody would see who migrates. In JSON mode every handler that writes to standard output or error, of the
root logger, the package, Alembic and uvicorn, gets the formatter of this file; files and other handlers are left alone.

Who speaks is a context variable, set where an instance or command begins to work: two applications in one process
share their loggers, as Python's logging has it, and each line still says whose it is. Lines from outside that work, as
uvicorn's access log, carry the name of the application that was configured last.
"""

from __future__ import annotations

import json
import logging
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

from .core.status import Tracker
from .settings import MigrationSettings
from .text.printable import printable

SHAPED = ("", __package__ or "", "alembic", "uvicorn", "uvicorn.error", "uvicorn.access")
"""The loggers whose handlers change in JSON mode; the first is the root."""

_NOT_EXTRA = {*vars(logging.makeLogRecord({})), "message", "asctime", "color_message"}
"""What every record has, and uvicorn's second copy of the message with colours in it."""

_speaker: ContextVar[Tracker | None] = ContextVar("migrations_speaker", default=None)


def bind_log_context(tracker: Tracker) -> None:
    """From here on, in this task and those it starts, lines are about this instance."""
    _speaker.set(tracker)


class JsonFormatter(logging.Formatter):
    """One line, one object: time, level, logger, message, who, the record's own fields, and the exception if any.

    `tracker` is for lines from outside any instance's work. For `uvicorn --log-config` and `dictConfig` as well.
    """

    def __init__(self, tracker: Tracker | None = None) -> None:
        super().__init__()
        self._tracker = tracker

    def format(self, record: logging.LogRecord) -> str:
        """The line; it never raises, whatever a record carries."""
        fields = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _message(record),
        }
        extra = {name: value for name, value in vars(record).items() if name not in _NOT_EXTRA}
        # first for their place in the line, last because nobody may take them
        return _dumped({**fields, **self._who(), **extra, **self._trace(record), **fields})

    def _who(self) -> dict[str, Any]:
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
    """A line for people without control characters, whoever chose the names and messages in it."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """The line before any traceback."""
        return printable(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802 - logging's name
        """The traceback, of several lines."""
        return printable(super().formatException(ei), keep="\n")


class ConsoleFormatter(PlainFormatter):
    """A line for people; at its end the instance, by the name that the others' lines give the one they wait for."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """The line before any traceback."""
        speaker = _speaker.get()
        return super().formatMessage(record) + (printable(f" [{speaker.status.instance}]") if speaker else "")


def configure(settings: MigrationSettings, tracker: Tracker) -> None:
    """Give an instance's lines the shape that the settings ask for. May be repeated.

    Args:
        settings: `log_format` and `log_level`.
        tracker: who speaks where nobody else is known to.
    """
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
    if settings.log_level or unheard:
        package.setLevel((settings.log_level or "info").upper())


def to_json(tracker: Tracker) -> None:
    """From here on, logging and `warnings` write JSON to the standard output and error of the process."""
    root, formatter = logging.getLogger(), JsonFormatter(tracker)
    if not root.handlers:
        # without one a library's warnings go to logging's last resort, which has no shape
        root.addHandler(logging.StreamHandler())
    for name in SHAPED:
        for handler in logging.getLogger(name).handlers:
            if getattr(handler, "stream", None) in {sys.stdout, sys.stderr}:
                handler.setFormatter(formatter)
    logging.captureWarnings(True)


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # arguments that do not fit: somebody's bug, and still worth its words
        return f"{_worded(record.msg)} {_worded(record.args)}"


def _dumped(fields: dict[str, Any]) -> str:
    try:
        return json.dumps(fields, default=str, allow_nan=False)
    except Exception:
        # keys that are no strings, not-a-number, a circle, a broken __str__: words are better than no line
        return json.dumps({str(name): _worded(value) for name, value in fields.items()})


def _worded(value: object) -> str:
    try:
        return value if isinstance(value, str) else repr(value)
    except Exception:
        return f"<{type(value).__name__}>"
