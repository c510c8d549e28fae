"""Comments that suppress findings: `# lint: ignore[rule-id, rule-id] reason`, on the line or above it."""

from __future__ import annotations

import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

from .rules import RULES, Hit, hit

_COMMENT = re.compile(r"#\s*lint:\s*ignore\s*(?:\[(?P<ids>[^\]]*)\])?:?\s*(?P<reason>.*)")


class Suppressions:
    """The comments of one file."""

    def __init__(self, path: Path) -> None:
        self._ids: dict[int, set[str]] = {}
        """By the line that a comment stands on, the rules that it names."""
        self._alone: set[int] = set()
        """The lines that are a comment."""
        self.bad: list[Hit] = []
        """The comments without a reason or a known rule."""
        with path.open("rb") as file:
            for token in tokenize.tokenize(file.readline):
                if token.type == tokenize.COMMENT:
                    self._read(token)

    def cover(self, one: Hit) -> bool:
        """Return whether a comment on the line of `one`, or in the comments directly above, names its rule."""
        return any(one.rule in self._ids.get(line, ()) for line in self._lines(one.line))

    def _lines(self, line: int) -> Iterator[int]:
        yield line
        while line - 1 in self._alone:
            line -= 1
            yield line

    def _read(self, token: tokenize.TokenInfo) -> None:
        line = token.start[0]
        if token.line.lstrip().startswith("#"):
            self._alone.add(line)
        match = _COMMENT.match(token.string)
        if match is None:
            return
        ids = {one.strip() for one in (match["ids"] or "").split(",")} - {""}
        unknown = sorted(one for one in ids if one not in RULES and not one.startswith("squawk/"))
        if not ids or unknown:
            why = f"no rule has the id {', '.join(unknown)}" if unknown else "it names no rule"
            self.bad.append(hit("bad-ignore", line, why=why))
        if not match["reason"].strip():
            self.bad.append(hit("bad-ignore", line, why="it gives no reason"))
        else:
            self._ids[line] = ids - {"bad-ignore"}
