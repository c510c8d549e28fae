"""Splits SQL into statements and tokens, and walks through the tokens of one statement."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_TOKEN = re.compile(
    r"""
      (?P<blank>\s+|--[^\n]*|/\*.*?\*/)
    | (?P<string>[eE]'(?:[^'\\]|\\.|'')*' | '(?:[^']|'')*' | \$(?P<tag>\w*)\$.*?\$(?P=tag)\$)
    | (?P<quoted>"(?:[^"]|"")+" | `[^`]+`)
    | (?P<word>[^\W\d][\w$]*)
    | (?P<number>\d[\w.]*)
    | (?P<symbol>::|.)
    """,
    re.VERBOSE | re.DOTALL,
)


_DOUBTFUL = re.compile(r"(?<![eE])'[^']*\\'")
"""A string that ends with a backslash, which escapes the quotation mark on MySQL."""
_SIZED = frozenset("bit char character decimal float numeric time timestamp timestamptz varbit varchar varying".split())
"""The words before a number in parentheses that is the size of a type."""


@dataclass(frozen=True)
class Token:
    """A word in lower case, a quoted name without its quotes, a string, a number or a symbol."""

    text: str
    kind: str

    def __str__(self) -> str:
        return self.text


def statements(text: str) -> Iterator[list[Token]]:
    """Yield the tokens of each statement of `text`, without comments and without the semicolon."""
    tokens: list[Token] = []
    for match in _TOKEN.finditer(text):
        kind, found = match.lastgroup or "", match.group()
        if kind == "quoted":
            found = found[1:-1].replace('""', '"')
        if found == ";" and kind == "symbol":
            yield from [tokens] if tokens else []
            tokens = []
        elif kind != "blank":
            tokens.append(Token(found.lower() if kind == "word" else found, kind))
    yield from [tokens] if tokens else []


def shown(text: str, *, quotes_are_strings: bool = False) -> str:
    """Return `text` in one line without comments and values: '…' for a string, … for a number.

    A number stays if it is the size of a type (`varchar(64)`) or the number of a parameter (`$1`). On MySQL double
    quotes are around strings. If a backslash may escape the end of a string, only the first two words are shown.
    """
    if _DOUBTFUL.search(text):
        return f"{' '.join(re.findall('[A-Za-z]+', text)[:2])} …"
    found, before, in_size = "", "", False
    for match in _TOKEN.finditer(text):
        kind, word = match.lastgroup, match.group()
        if kind == "blank":
            found = f"{found.rstrip()} "
            continue
        in_size = (word == "(" and before.lower() in _SIZED) or (in_size and word != ")")
        is_value = kind == "number" and before != "$" and not in_size
        is_string = kind == "string" or (quotes_are_strings and word.startswith('"'))
        found += "'…'" if is_string else "…" if is_value else word
        before = word
    return found.strip().removesuffix(";").rstrip()


def joined(tokens: Sequence[Token]) -> str:
    """Return the text of `tokens` with one space between two words, so that equal SQL gives equal text."""
    text, before = "", "symbol"
    for token in tokens:
        text += f"{' ' if 'symbol' not in (before, token.kind) else ''}{token}"
        before = token.kind
    return text


def parts(tokens: Sequence[Token], separator: str = ",") -> list[list[Token]]:
    """Split `tokens` at each `separator` that is outside parentheses."""
    found: list[list[Token]] = [[]]
    depth = 0
    for token in tokens:
        depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(token.text, 0) if token.kind == "symbol" else 0
        if depth == 0 and token.text == separator and token.kind != "string":
            found.append([])
        else:
            found[-1].append(token)
    return found


class Reader:
    """Walks through the tokens of one statement."""

    def __init__(self, tokens: Sequence[Token]) -> None:
        self.tokens = list(tokens)
        self.at = 0

    @property
    def rest(self) -> list[Token]:
        """The tokens that are left."""
        return self.tokens[self.at :]

    def take(self, words: str) -> bool:
        """Go past `words` if they come next; return whether they did."""
        wanted = words.split()
        if [token.text for token in self.rest[: len(wanted)] if token.kind != "string"] != wanted:
            return False
        self.at += len(wanted)
        return True

    def any_of(self, *choices: str) -> str:
        """Go past the first of `choices` that comes next, and return it; return "" if none does."""
        return next((words for words in choices if self.take(words)), "")

    def name(self) -> str:
        """Go past a name and return it, with its schema unless that is `public`."""
        found = self._next()
        while self.take("."):
            found = f"{found}.{self._next()}"
        return found.removeprefix("public.")

    def group(self) -> list[Token]:
        """Go past the next parentheses and return what is in them."""
        inside: list[Token] = []
        depth = 0
        for token in self.rest:
            self.at += 1
            depth -= token.text == ")" and token.kind == "symbol"
            if depth > 0:
                inside.append(token)
            elif inside or token.text == ")":
                break
            depth += token.text == "(" and token.kind == "symbol"
        return inside

    def has(self, words: str) -> bool:
        """Return whether `words` come anywhere in what is left."""
        return any(Reader(self.tokens[start:]).take(words) for start in range(self.at, len(self.tokens)))

    def until(self, *words: str) -> list[Token]:
        """Return the tokens up to the first of `words` in what is left; all if none comes."""
        rest = self.rest
        ends = (at for at, token in enumerate(rest) if token.kind == "word" and token.text in words)
        return rest[: next(ends, len(rest))]

    def after(self, words: str) -> list[Token]:
        """Return the tokens after the first `words` in what is left; none if they do not come."""
        readers = (Reader(self.tokens[start:]) for start in range(self.at, len(self.tokens)))
        return next((reader.rest for reader in readers if reader.take(words)), [])

    def _next(self) -> str:
        self.at += 1
        return self.tokens[self.at - 1].text if self.at <= len(self.tokens) else ""
