"""A control character in a name or message never reaches a terminal, a console log or the page."""

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
def test_text_for_people_stays_as_it_is(text: str) -> None:
    """Letters of any script stay."""
    assert printable(text) == text


def test_control_characters_become_visible() -> None:
    """Escape sequences, line breaks and changes of the writing direction become escapes."""
    assert printable(EVIL) == SHOWN
    assert printable("a\nb\tc\x1b", keep="\n") == "a\nb\\tc\\x1b"
    assert printable("\ud800") == "\\ud800"


@pytest.mark.parametrize("formatter", [PlainFormatter(), ConsoleFormatter()])
def test_a_line_of_the_log_stays_one_line(formatter: logging.Formatter) -> None:
    """Only a traceback has several lines, and they have no control characters."""
    record = logging.makeLogRecord({"msg": "by %s", "args": (EVIL,), "levelname": "INFO"})
    assert formatter.format(record).endswith(f"by {SHOWN}")
    try:
        raise ValueError(EVIL)
    except ValueError as error:
        record.exc_info = (ValueError, error, error.__traceback__)
    assert set(formatter.format(record)) & {"\x1b", "\x07", "\r", "\u202e"} == set()


def test_a_terminal_gets_no_escape_sequence(capsys: pytest.CaptureFixture[str]) -> None:
    """A result, an error and the plan of a downgrade have none; JSON has its own escapes."""
    result = SchemaReport(message=EVIL, steps=[EVIL])
    output.show(result, as_json=False)
    output.complain(MigrationError(EVIL), as_json=False)
    output.confirm((EVIL,), lambda revision: revision, yes=True)
    output.show(result, as_json=True)
    out, err = capsys.readouterr()
    assert (out.count(SHOWN), err.count(SHOWN)) == (2, 2)
    assert set(out + err) - {"\n"} == {one for one in out + err if one.isprintable()}


def test_the_page_has_none() -> None:
    """A name that changes the writing direction would read as another name."""
    page = render(Status(instance=EVIL), 0.0)
    assert printable(EVIL, keep=LINE_BREAK) in page
    assert {one for one in page if not one.isprintable()} == {LINE_BREAK}
