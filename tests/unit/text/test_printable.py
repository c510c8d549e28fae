"""A control character in a name or message reaches no terminal, console log or status page."""

import logging

import pytest

from api.migrations.cli import output
from api.migrations.cli.results import SchemaReport
from api.migrations.core.status import Status
from api.migrations.errors import MigrationError
from api.migrations.logs import ConsoleFormatter, PlainFormatter
from api.migrations.text.printable import printable
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
    assert set(formatter.format(record)) & {"\x1b", "\x07", "\r", "\u202e"} == set()


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
