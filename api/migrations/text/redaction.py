"""Removes values from the messages of PostgreSQL and asyncpg, and keeps the cause.

A message of SQLSTATE class 22 (data exceptions) has a sentence and the value: in quotation marks, after a colon, or as
a number. Quotation marks in a value are not escaped, so everything between the first and the last one is removed. A
translated message has the quotation marks of its language.
"""

from __future__ import annotations

import re

from .encoding import UTF8, storable

LONGEST = 300
"""Characters of a driver's message that are shown."""
LEFT_OUT = "its text is left out because it may quote the value"

_FURTHER_LINES = re.compile(r"\n(?:DETAIL|HINT|CONTEXT|QUERY|LINE \d+):")
_MARKS = '"„“”«»\u2039\u203a「」『』\u2018'
# an apostrophe within a word is not a quotation mark
_QUOTED = re.compile(rf"(?:(?<!\w)['’]|[{_MARKS}])(?:.*['’{_MARKS}]|.*)", re.DOTALL)
_NUMBERS = re.compile(r"(?<![\w$(,.])-?\d[\w.:/+-]*(?: 0x[0-9a-f]+)*")
_TAIL = re.compile(r': (?!"…"$).*', re.DOTALL)
_SENTENCES = ("invalid regular expression: ", "invalid hexadecimal data: ", "setval: ")
"""After the colon of these is the cause, not the value."""
_PARAMETER = re.compile(r'(invalid value for parameter "[\w.]+"): .*', re.DOTALL)
_ELEMENT = "invalid array element"
_ENCODINGS_QUOTED = {"22021", "22P05"}
"""These quote names of encodings, and give the character by its bytes."""
_URL = re.compile(r"\b([A-Za-z][\w+.-]*)://\S+")
"""An env.py, or a library that it calls, may quote the database's URL with its password."""
_LITERALS = re.compile(r"'(?:[^']|'')*'")
_RAISED = re.compile(r'"[^"]*"?')
_ARGUMENT = re.compile(r"invalid input for query argument (\$\d+(?: in element #\d+)?)")


def server_text(error: BaseException, code: str) -> str:
    """Return the server's message in one line, without values; `error` is the driver's own, `code` its SQLSTATE."""
    if code.startswith("22"):
        return first_line(_data_exception(error, code))
    # 42601 quotes the statement, P0001 the text of a RAISE; other codes quote names of tables and columns
    if code == "42601":
        return first_line(" ".join(_QUOTED.sub('"…"', _message(error)).split()))
    text = first_line(without_literals(_message(error)) or type(error).__name__)
    return _RAISED.sub('"…"', text) if code == "P0001" else text


def without_literals(text: str) -> str:
    """Return `text` without its SQL literals, which may have several lines."""
    return _LITERALS.sub("'…'", text)


def first_line(text: str) -> str:
    """Return the first line of `text`, which is not empty: shortened, without URLs, and writable as UTF-8."""
    return storable(_URL.sub(r"\1://…", text.splitlines()[0]), UTF8, LONGEST)


def _data_exception(error: BaseException, code: str) -> str:
    if getattr(error, "server_source_function", None) == "exec_stmt_raise":
        return "its text is left out because a RAISE in the database wrote it"
    text = _message(error)
    argument = _ARGUMENT.match(text)
    if argument:
        return f"query argument {argument[1]}: {_reason(error.__cause__)}"
    parameter = _PARAMETER.fullmatch(text)
    if parameter:
        return f"{parameter[1]}: …"
    return _without_values(text if code in _ENCODINGS_QUOTED else _QUOTED.sub('"…"', text)) or LEFT_OUT


def _message(error: BaseException) -> str:
    return _FURTHER_LINES.split(str(error.args[0]) if error.args else "")[0].strip()


def _without_values(text: str) -> str:
    if not text.startswith(_SENTENCES):
        text = _TAIL.sub(": …", text)
    return _NUMBERS.sub("…", " ".join(text.split()))


def _reason(error: BaseException | None) -> str:
    # why asyncpg could not encode an argument, in Python's text; a TypeError names types only
    if isinstance(error, TypeError | AttributeError | OverflowError):
        return str(error)
    if isinstance(error, UnicodeEncodeError):
        return f"it has a character that {error.encoding} cannot encode"
    if isinstance(error, ValueError):
        text = _QUOTED.sub('"…"', str(error))
        return text if text.startswith(_ELEMENT) else _without_values(text)
    return LEFT_OUT if error is None else type(error).__name__
