"""A control character in a name or message reaches no terminal, log, status page, health endpoint or metric."""

import io
import logging
import traceback
from dataclasses import replace

import httpx
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from starlette.applications import Starlette

from api.migrations.cli import output
from api.migrations.cli.results import SchemaReport
from api.migrations.core.schema import Schema
from api.migrations.core.status import Blocker, Holder, LastRun, LockStatus, Status, Tracker
from api.migrations.errors import MigrationError
from api.migrations.logs import ConsoleFormatter, PlainFormatter, configure
from api.migrations.settings import MigrationSettings
from api.migrations.text.printable import printable
from api.migrations.web.health import routes
from api.migrations.web.metrics import MigrationCollector
from api.migrations.web.status_page.page import render

EVIL = "a\x1b[2J\x07\x9b31m\u202eb\r\nINFO forged\u2028\x7f"
LINE_BREAK = "\n"
SHOWN = r"a\x1b[2J\x07\x9b31m\u202eb\r\nINFO forged\u2028\x7f"


@pytest.mark.parametrize("text", ["", "plain", "b\u00fcro \u6771\u4eac \u2026 \u00a0", "\U0001f418"])
def test_printable_text_is_not_changed(text: str) -> None:
    """Printable text in any script is not changed."""
    assert printable(text) == text


def test_control_characters_become_escapes() -> None:
    """Control characters, line breaks and changes of the writing direction become escapes."""
    assert printable(EVIL) == SHOWN
    assert printable("a\nb\tc\x1b", keep="\n") == "a\nb\\tc\\x1b"
    assert printable("\ud800") == "\\ud800"


@pytest.mark.parametrize("formatter", [PlainFormatter(), ConsoleFormatter()])
def test_a_log_message_stays_on_one_line(formatter: logging.Formatter) -> None:
    """A log message stays on one line, and a traceback after it has no control characters but line breaks."""
    record = logging.makeLogRecord({"msg": "by %s", "args": (EVIL,), "levelname": "INFO"})
    assert formatter.format(record).endswith(f"by {SHOWN}")
    try:
        raise ValueError(EVIL)
    except ValueError as error:
        record.exc_info = (ValueError, error, error.__traceback__)
    lines = formatter.format(record).split(LINE_BREAK)
    assert lines[-1] == f"ValueError: {SHOWN}"
    assert [line for line in lines if line.startswith("INFO") or not line.isprintable()] == []


@pytest.mark.parametrize("style", ["%(message)s", "%(levelname)s %(message)s %(extra)s"])
def test_an_application_s_own_log_format_gets_printable_lines(style: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An application's own handler gets lines and tracebacks of the package that are printable."""
    package, stream = logging.getLogger("api.migrations"), io.StringIO()
    monkeypatch.setattr(package, "handlers", [])
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter(style, defaults={"extra": ""}))
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [handler])
    for _ in range(2):
        configure(MigrationSettings.load(_env_file=None, log_level="info"), Tracker())
    log = logging.getLogger("api.migrations.core.reporter")
    error = ValueError(EVIL)
    log.warning("%s of %s: %d %%", EVIL, error, 7, exc_info=error)
    log.warning("%d plain %s", 7, "b\u00fcro")
    lines = stream.getvalue().splitlines()
    assert [line for line in lines if not line.isprintable() or line.startswith("INFO forged")] == []
    assert f"{SHOWN} of {SHOWN}: 7 %" in lines[0]
    assert lines[-2].endswith(f"ValueError: {SHOWN}")
    assert "7 plain b\u00fcro" in lines[-1]
    assert len(package.handlers) == 1


def test_chained_exceptions_are_logged_as_python_prints_them() -> None:
    """The traceback of an error with a cause is that of Python, line for line."""
    with pytest.raises(ValueError, match="outer") as raised:
        try:
            raise KeyError("inner")
        except KeyError as error:
            raise ValueError("outer") from error
    printed = "".join(traceback.format_exception(raised.value)).removesuffix(LINE_BREAK)
    assert PlainFormatter().formatException((ValueError, raised.value, raised.tb)) == printed


def test_a_terminal_gets_no_escape_sequence(capsys: pytest.CaptureFixture[str]) -> None:
    """A result, an error and the plan of a downgrade print no escape sequence."""
    result = SchemaReport(message=EVIL, steps=[EVIL])
    output.show(result, as_json=False)
    output.complain(MigrationError(EVIL), as_json=False)
    output.confirm((EVIL,), lambda revision: revision, yes=True)
    output.show(result, as_json=True)
    out, err = capsys.readouterr()
    assert (out.count(SHOWN), err.count(SHOWN)) == (2, 2)
    assert set(out + err) - {"\n"} == {one for one in out + err if one.isprintable()}


def test_the_status_page_has_no_control_characters() -> None:
    """The status page shows control characters of a name as escapes."""
    page = render(Status(instance=EVIL), 0.0)
    assert printable(EVIL, keep=LINE_BREAK) in page
    assert {one for one in page if not one.isprintable()} == {LINE_BREAK}


async def test_the_health_endpoints_have_no_control_characters() -> None:
    """The JSON of a hostile status is printable as it is sent, and has the same text when decoded."""
    blocker = Blocker(7, EVIL, EVIL, EVIL, 1.0, EVIL, EVIL)
    status = Status(message=EVIL, last_run=LastRun("failed", EVIL, error=EVIL), invalid_indexes=(EVIL,))
    status = replace(status, lock_status=LockStatus(Holder(EVIL), blocked_by=(blocker,)))
    transport = httpx.ASGITransport(Starlette(routes=routes(lambda: status)))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        for path in ("/health/ready", "/health/migrations"):
            answer = await client.get(path)
            assert answer.text.isprintable()
            assert answer.json()["message"] == EVIL


def test_the_labels_of_the_metrics_have_no_control_characters() -> None:
    """The names of instance, release, revisions and scopes are printable in every metric."""
    schema = Schema(revisions=frozenset({EVIL}), heads=frozenset({EVIL}))
    status = Status(instance=EVIL, release=EVIL, strategy=EVIL, schema=schema, scopes={EVIL: schema})
    registry = CollectorRegistry()
    registry.register(MigrationCollector(lambda: status))
    text = generate_latest(registry).decode()
    assert {one for one in text if not one.isprintable()} == {LINE_BREAK}
    assert text.count("u202e") == 6
