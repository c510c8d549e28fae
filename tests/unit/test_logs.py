"""Log lines are JSON objects on request and name their instance, and the application's own logging is not changed."""

import asyncio
import io
import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from api.migrations.cli import output
from api.migrations.core.status import Progress, Tracker
from api.migrations.errors import WaitTimeout
from api.migrations.logs import SHAPED, ConsoleFormatter, Escaper, JsonFormatter, bind_log_context, configure
from api.migrations.settings import MigrationSettings
from api.migrations.startup_integration import json_logs_from_here

PACKAGE = "api.migrations"
log = logging.getLogger(f"{PACKAGE}.test")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the developer's own .env."""
    monkeypatch.chdir(tmp_path)


@contextmanager
def unconfigured() -> Iterator[None]:
    """Run a test as in a process without configured logging, and restore the logging afterwards.

    No fixture: pytest puts its own handlers in place after those.
    """
    known = [logging.getLogger(name) for name in SHAPED]
    before = [(one, one.handlers[:], one.level, one.propagate) for one in known]
    for one in known:
        one.handlers, one.propagate = [], True
        one.setLevel(logging.WARNING if one.name == "root" else logging.NOTSET)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        for one, handlers, level, propagate in before:
            one.handlers, one.propagate = handlers, propagate
            one.setLevel(level)


def tracker(name: str = "api-1") -> Tracker:
    """Return the tracker of an instance that is at revision b."""
    return Tracker(instance=name, strategy="advisory_lock", release="v7", progress=Progress(0, 1, "b"))


def settings(**values: Any) -> MigrationSettings:
    """Return settings without an environment."""
    return MigrationSettings.load(**values)


def record(message: str = "hello %s", *arguments: object, name: str = PACKAGE, **extra: object) -> logging.LogRecord:
    """Return a log record."""
    made = logging.makeLogRecord({"msg": message, "args": arguments or ("you",), "name": name, "levelname": "INFO"})
    vars(made).update(extra)
    return made


def formatted(made: logging.LogRecord, speaker: Tracker | None = None) -> dict[str, Any]:
    """Return what a log collector parses from one line."""
    line = JsonFormatter(speaker).format(made)
    assert "\n" not in line
    read: dict[str, Any] = json.loads(line)
    return read


def lines(text: str) -> list[dict[str, Any]]:
    """Return every line, parsed as JSON."""
    return [json.loads(line) for line in text.splitlines()]


def test_a_line_has_its_fields_by_name() -> None:
    """A JSON line has level, logger, message and time, and the fields that the caller added."""
    read = formatted(record(event="ready", revisions=("a", "b"), seconds=1.5))
    assert datetime.fromisoformat(read.pop("time")).utcoffset() is not None
    assert read == {
        "level": "info",
        "logger": PACKAGE,
        "message": "hello you",
        "event": "ready",
        "revisions": ["a", "b"],
        "seconds": 1.5,
    }


def test_an_exception_is_one_field() -> None:
    """A traceback is one field of the JSON line."""
    try:
        raise ValueError("boom\nbang")
    except ValueError:
        read = formatted(record(exc_info=sys.exc_info()))
    assert read["exception"].startswith("Traceback")
    assert read["exception"].endswith("ValueError: boom\nbang")
    assert "exception" not in formatted(record(exc_info=None))


@pytest.mark.parametrize("odd", [float("nan"), {1: object()}, {("a",): 1}, b"\xff", "\udc80\u2028", Path("/x")])
def test_a_field_of_any_value_is_logged(odd: object) -> None:
    """A field with a value that JSON cannot represent does not prevent the line."""
    assert formatted(record(odd=odd))["message"] == "hello you"


def test_a_field_that_contains_itself_is_logged() -> None:
    """A list that contains itself is logged as text."""
    circle: list[object] = []
    circle.append(circle)
    assert formatted(record(circle=circle))["circle"] == "[[...]]"


def test_a_message_with_wrong_arguments_is_logged() -> None:
    """A message whose arguments do not fit its format is logged with both."""
    assert formatted(record("%d apples", "many"))["message"] == "%d apples ('many',)"


def test_the_fixed_fields_cannot_be_overwritten() -> None:
    """A caller's field named `level`, `time` or `logger` does not overwrite the fixed field."""
    read = formatted(record(level="mine", time="mine", logger="mine"))
    assert (read["level"], read["logger"]) == ("info", PACKAGE)
    assert read["time"] != "mine"


def test_uvicorn_s_coloured_copy_is_left_out() -> None:
    """Uvicorn's copy of the message with escape sequences is not in the JSON line."""
    assert "color_message" not in formatted(record(color_message="\x1b[1mhello\x1b[0m"))


async def test_a_line_names_its_instance_and_revision() -> None:
    """Two instances in one process log: each line names its own instance, revision, strategy and release."""

    async def says(who: Tracker) -> dict[str, Any]:
        bind_log_context(who)
        await asyncio.sleep(0)
        return await asyncio.to_thread(formatted, record(), tracker("somebody else"))

    said = await asyncio.gather(says(tracker("api-1")), says(tracker("api-2")))
    assert [(one["instance"], one["revision"]) for one in said] == [("api-1", "b"), ("api-2", "b")]
    assert {(one["strategy"], one["release"]) for one in said} == {("advisory_lock", "v7")}


def test_a_line_of_another_logger_names_only_the_instance() -> None:
    """A line of uvicorn's access log names the instance and no revision."""
    read = formatted(record(name="uvicorn.access"), tracker())
    assert (read["instance"], read["release"], "revision" in read) == ("api-1", "v7", False)


def test_a_line_s_own_revision_wins() -> None:
    """A revision that the caller names wins over the revision that the instance is at."""
    assert formatted(record(revision="a"), tracker())["revision"] == "a"


async def test_the_console_names_the_instance_before_any_traceback() -> None:
    """A console line ends with the instance's name in brackets, before any traceback."""
    bind_log_context(tracker())
    assert ConsoleFormatter().format(record()).endswith("INFO api.migrations: hello you [api-1]")
    with_trace = record(exc_text="Traceback: boom")
    assert ConsoleFormatter().format(with_trace).endswith("hello you [api-1]\nTraceback: boom")


@unconfigured()
def test_the_package_logs_to_stderr_if_logging_is_not_configured(capsys: pytest.CaptureFixture[str]) -> None:
    """Logging is not configured: the package logs to standard error and leaves the root logger alone."""
    configure(settings(), tracker())
    log.info("heard")
    assert "INFO api.migrations.test: heard" in capsys.readouterr().err
    assert logging.getLogger().handlers == []


@unconfigured()
def test_an_application_s_own_logging_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    """The application configured logging: console mode changes no handler, formatter or level of it."""
    handler = logging.StreamHandler(sys.stderr)
    logging.getLogger().addHandler(handler)
    configure(settings(), tracker())
    assert handler.formatter is None
    assert [type(own) for own in logging.getLogger(PACKAGE).handlers] == [Escaper]
    log.info("below the application's level")
    log.warning("above it")
    assert capsys.readouterr().err == "above it\n"


@unconfigured()
def test_a_level_in_the_settings_applies_only_to_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    """MIGRATION_LOG_LEVEL applies to the package's loggers and not to others."""
    logging.getLogger().addHandler(logging.StreamHandler(sys.stderr))
    configure(settings(log_level="error"), tracker())
    log.warning("not wanted")
    logging.getLogger("other").warning("wanted")
    assert capsys.readouterr().err == "wanted\n"


@unconfigured()
def test_json_mode_formats_every_handler_on_stdout_and_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    """In JSON mode the handlers of package, uvicorn, Alembic and libraries on stdout and stderr write JSON."""
    server, access = logging.StreamHandler(sys.stderr), logging.StreamHandler(sys.stdout)
    logging.getLogger("uvicorn").addHandler(server)
    logging.getLogger("uvicorn").propagate = False
    logging.getLogger("uvicorn.access").addHandler(access)
    logging.getLogger("uvicorn.access").propagate = False
    configure(settings(log_format="json"), tracker())
    log.info("ours", extra={"event": "ready"})
    logging.getLogger("uvicorn.error").warning("its own")
    logging.getLogger("uvicorn.access").warning('%s - "%s"', "127.0.0.1", "GET /")
    logging.getLogger("alembic.runtime").warning("its own")
    logging.getLogger("other").warning("a library's")
    out, err = capsys.readouterr()
    assert [line["message"] for line in lines(out)] == ['127.0.0.1 - "GET /"']
    assert [line["logger"] for line in lines(err)] == [
        "api.migrations.test",
        "uvicorn.error",
        "alembic.runtime",
        "other",
    ]
    assert {line["instance"] for line in lines(out + err)} == {"api-1"}


@unconfigured()
def test_json_mode_leaves_other_handlers_alone(tmp_path: Path) -> None:
    """In JSON mode handlers that write to files or in-memory streams keep their formatters."""
    kept: list[logging.Handler] = [logging.FileHandler(tmp_path / "app.log"), logging.StreamHandler(io.StringIO())]
    for handler in kept:
        logging.getLogger().addHandler(handler)
    configure(settings(log_format="json"), tracker())
    assert [handler.formatter for handler in kept] == [None, None]
    kept[0].close()


@unconfigured()
def test_logging_configured_twice_writes_each_line_once(capsys: pytest.CaptureFixture[str]) -> None:
    """The application and its lifespan both configure logging: each line is written once, with the later instance."""
    configure(settings(log_format="json"), tracker("early"))
    configure(settings(log_format="json"), tracker("late"))
    log.info("once")
    assert [line["instance"] for line in lines(capsys.readouterr().err)] == ["late"]


@pytest.mark.parametrize(("format", "handlers"), [("json", 1), ("console", 0), ("xml", 0)])
@unconfigured()
def test_importing_the_application_configures_only_json_logging(
    monkeypatch: pytest.MonkeyPatch, format: str, handlers: int
) -> None:
    """Importing an application configures JSON logging, changes nothing in console mode, and ignores wrong settings."""
    monkeypatch.setenv("MIGRATION_LOG_FORMAT", format)
    monkeypatch.setenv("MIGRATION_WAIT_SECONDS", "not a number")
    json_logs_from_here()
    assert len(logging.getLogger().handlers) == handlers


@pytest.mark.parametrize("quiet", [False, True])
@unconfigured()
def test_a_command_logs_json_lines(capsys: pytest.CaptureFixture[str], quiet: bool) -> None:
    """A command logs its steps and its error as JSON lines to standard error, and only the error with `--quiet`."""
    output.log_to_stderr(settings(log_format="json", log_level="debug", instance="desk"), quiet=quiet)
    log.info("a step")
    output.complain(WaitTimeout("gave up"), as_json=False, logged=True)
    out, err = capsys.readouterr()
    *steps, complaint = lines(err)
    assert [step["message"] for step in steps] == ([] if quiet else ["a step"])
    assert (complaint["event"], complaint["error"], complaint["instance"]) == ("failed", "WaitTimeout", "desk")
    assert out == ""


def test_some_settings_can_be_loaded_while_others_are_invalid(monkeypatch: pytest.MonkeyPatch) -> None:
    """`load_partial` reads one setting while others are invalid, and uses the default of an invalid one."""
    monkeypatch.setenv("MIGRATION_LOG_FORMAT", "json")
    monkeypatch.setenv("MIGRATION_RUN_SECONDS", "-1")
    assert MigrationSettings.load_partial("log_format").log_format == "json"
    monkeypatch.setenv("MIGRATION_LOG_FORMAT", "xml")
    assert MigrationSettings.load_partial("log_format").log_format == "console"
