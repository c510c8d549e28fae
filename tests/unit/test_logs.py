"""Log lines: one JSON object each where that is asked for, with who speaks; and nobody's own logging is touched."""

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
from api.migrations.logs import SHAPED, ConsoleFormatter, JsonFormatter, bind_log_context, configure
from api.migrations.settings import MigrationSettings
from api.migrations.startup_integration import json_logs_from_here

PACKAGE = "api.migrations"
log = logging.getLogger(f"{PACKAGE}.test")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A developer's own .env must not decide."""
    monkeypatch.chdir(tmp_path)


@contextmanager
def unconfigured() -> Iterator[None]:
    """Around a test: a process in which nobody has configured logging; afterwards it is as it was.

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
    """An instance that is at revision b."""
    return Tracker(instance=name, strategy="advisory_lock", release="v7", progress=Progress(0, 1, "b"))


def settings(**values: Any) -> MigrationSettings:
    """Settings without an environment."""
    return MigrationSettings.load(**values)


def record(message: str = "hello %s", *arguments: object, name: str = PACKAGE, **extra: object) -> logging.LogRecord:
    """A line that somebody logs."""
    made = logging.makeLogRecord({"msg": message, "args": arguments or ("you",), "name": name, "levelname": "INFO"})
    vars(made).update(extra)
    return made


def formatted(made: logging.LogRecord, speaker: Tracker | None = None) -> dict[str, Any]:
    """What a collector reads of one line."""
    line = JsonFormatter(speaker).format(made)
    assert "\n" not in line
    read: dict[str, Any] = json.loads(line)
    return read


def lines(text: str) -> list[dict[str, Any]]:
    """Every line as JSON."""
    return [json.loads(line) for line in text.splitlines()]


def test_a_line_has_its_fields_by_name() -> None:
    """And whatever the caller added to it."""
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
    """A traceback does not tear the line apart."""
    try:
        raise ValueError("boom\nbang")
    except ValueError:
        read = formatted(record(exc_info=sys.exc_info()))
    assert read["exception"].startswith("Traceback")
    assert read["exception"].endswith("ValueError: boom\nbang")
    assert "exception" not in formatted(record(exc_info=None))


@pytest.mark.parametrize("odd", [float("nan"), {1: object()}, {("a",): 1}, b"\xff", "\udc80\u2028", Path("/x")])
def test_any_value_makes_a_line(odd: object) -> None:
    """Whatever a library attaches to its records."""
    assert formatted(record(odd=odd))["message"] == "hello you"


def test_a_circle_makes_a_line() -> None:
    """In words."""
    circle: list[object] = []
    circle.append(circle)
    assert formatted(record(circle=circle))["circle"] == "[[...]]"


def test_arguments_that_do_not_fit_make_a_line() -> None:
    """Somebody else's bug must not take the line away."""
    assert formatted(record("%d apples", "many"))["message"] == "%d apples ('many',)"


def test_the_fixed_fields_cannot_be_taken() -> None:
    """A library that calls a field of its own `level` or `time`."""
    read = formatted(record(level="mine", time="mine", logger="mine"))
    assert (read["level"], read["logger"]) == ("info", PACKAGE)
    assert read["time"] != "mine"


def test_uvicorns_coloured_copy_is_left_out() -> None:
    """The same words with escape sequences in them."""
    assert "color_message" not in formatted(record(color_message="\x1b[1mhello\x1b[0m"))


async def test_a_line_says_who_speaks_and_about_what() -> None:
    """Two applications in one process share their loggers, and each line is still its own instance's."""

    async def says(who: Tracker) -> dict[str, Any]:
        bind_log_context(who)
        await asyncio.sleep(0)
        return await asyncio.to_thread(formatted, record(), tracker("somebody else"))

    said = await asyncio.gather(says(tracker("api-1")), says(tracker("api-2")))
    assert [(one["instance"], one["revision"]) for one in said] == [("api-1", "b"), ("api-2", "b")]
    assert {(one["strategy"], one["release"]) for one in said} == {("advisory_lock", "v7")}


def test_a_line_from_outside_names_the_instance_only() -> None:
    """A request that is served has no revision."""
    read = formatted(record(name="uvicorn.access"), tracker())
    assert (read["instance"], read["release"], "revision" in read) == ("api-1", "v7", False)


def test_a_field_of_its_own_wins() -> None:
    """The revision that a line is about, not the one that comes next."""
    assert formatted(record(revision="a"), tracker())["revision"] == "a"


async def test_the_console_names_the_instance_before_any_traceback() -> None:
    """By the name that the others' lines give the one they wait for."""
    bind_log_context(tracker())
    assert ConsoleFormatter().format(record()).endswith("INFO api.migrations: hello you [api-1]")
    with_trace = record(exc_text="Traceback: boom")
    assert ConsoleFormatter().format(with_trace).endswith("hello you [api-1]\nTraceback: boom")


@unconfigured()
def test_where_nobody_configured_logging_the_package_is_heard(capsys: pytest.CaptureFixture[str]) -> None:
    """And only the package."""
    configure(settings(), tracker())
    log.info("heard")
    assert "INFO api.migrations.test: heard" in capsys.readouterr().err
    assert logging.getLogger().handlers == []


@unconfigured()
def test_an_applications_own_logging_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    """In console mode nothing of it changes: no handler, no formatter, no level."""
    handler = logging.StreamHandler(sys.stderr)
    logging.getLogger().addHandler(handler)
    configure(settings(), tracker())
    assert (handler.formatter, logging.getLogger(PACKAGE).handlers) == (None, [])
    log.info("below the application's level")
    log.warning("above it")
    assert capsys.readouterr().err == "above it\n"


@unconfigured()
def test_a_level_that_was_set_counts_for_the_package_alone(capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever configured the handlers."""
    logging.getLogger().addHandler(logging.StreamHandler(sys.stderr))
    configure(settings(log_level="error"), tracker())
    log.warning("not wanted")
    logging.getLogger("other").warning("wanted")
    assert capsys.readouterr().err == "wanted\n"


@unconfigured()
def test_in_json_mode_every_logger_that_writes_to_the_streams_is_shaped(capsys: pytest.CaptureFixture[str]) -> None:
    """The package, uvicorn with its access log, Alembic, and libraries that only warn."""
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
def test_in_json_mode_what_goes_elsewhere_is_left_alone(tmp_path: Path) -> None:
    """Files and handlers that keep their text are read by somebody who knows their shape."""
    kept: list[logging.Handler] = [logging.FileHandler(tmp_path / "app.log"), logging.StreamHandler(io.StringIO())]
    for handler in kept:
        logging.getLogger().addHandler(handler)
    configure(settings(log_format="json"), tracker())
    assert [handler.formatter for handler in kept] == [None, None]
    kept[0].close()


@unconfigured()
def test_configured_twice_nothing_is_said_twice(capsys: pytest.CaptureFixture[str]) -> None:
    """Once where the application is made and once in its lifespan; the latter knows more."""
    configure(settings(log_format="json"), tracker("early"))
    configure(settings(log_format="json"), tracker("late"))
    log.info("once")
    assert [line["instance"] for line in lines(capsys.readouterr().err)] == ["late"]


@pytest.mark.parametrize(("format", "handlers"), [("json", 1), ("console", 0), ("xml", 0)])
@unconfigured()
def test_before_the_lifespan_only_json_is_begun(monkeypatch: pytest.MonkeyPatch, format: str, handlers: int) -> None:
    """Importing an application must not change how its process logs, nor fail for a wrong setting."""
    monkeypatch.setenv("MIGRATION_LOG_FORMAT", format)
    monkeypatch.setenv("MIGRATION_WAIT_SECONDS", "not a number")
    json_logs_from_here()
    assert len(logging.getLogger().handlers) == handlers


@pytest.mark.parametrize("quiet", [False, True])
@unconfigured()
def test_a_command_writes_json_lines_too(capsys: pytest.CaptureFixture[str], quiet: bool) -> None:
    """Its complaint included; its result stays what it was."""
    output.log_to_stderr(settings(log_format="json", log_level="debug", instance="desk"), quiet=quiet)
    log.info("a step")
    output.complain(WaitTimeout("gave up"), as_json=False, logged=True)
    out, err = capsys.readouterr()
    *steps, complaint = lines(err)
    assert [step["message"] for step in steps] == ([] if quiet else ["a step"])
    assert (complaint["event"], complaint["error"], complaint["instance"]) == ("failed", "WaitTimeout", "desk")
    assert out == ""


def test_some_settings_can_be_read_where_others_are_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """And where those are wrong too, they are the defaults."""
    monkeypatch.setenv("MIGRATION_LOG_FORMAT", "json")
    monkeypatch.setenv("MIGRATION_RUN_SECONDS", "-1")
    assert MigrationSettings.load_partial("log_format").log_format == "json"
    monkeypatch.setenv("MIGRATION_LOG_FORMAT", "xml")
    assert MigrationSettings.load_partial("log_format").log_format == "console"
