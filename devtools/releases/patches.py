"""Unified diffs in plain Python, because a clone need not have git or patch: made with difflib, applied by content."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_HUNK = re.compile(r"@@ -(\d+)")


@dataclass(frozen=True)
class Hunk:
    """A change of one file: these consecutive lines, near that line number, become others."""

    path: str
    line: int
    before: list[str]
    after: list[str]

    def __str__(self) -> str:
        """Return the place, for messages."""
        return f"{self.path}, line {self.line}"


def parse(patch: str) -> Iterator[Hunk]:
    """Yield the hunks of a unified diff."""
    path = ""
    hunk: Hunk | None = None
    for line in patch.splitlines(keepends=True):
        if line.startswith(("--- ", "+++ ", "@@ ")):
            if hunk:
                yield hunk
            hunk = None
            if line.startswith("--- "):
                path = line.split()[1].partition("/")[2]
            elif found := _HUNK.match(line):
                hunk = Hunk(path, int(found[1]), [], [])
        elif hunk:
            hunk.before.extend([line[1:]] if line[0] in " -" else [])
            hunk.after.extend([line[1:]] if line[0] in " +" else [])
    if hunk:
        yield hunk


def apply(patch: str, folder: Path) -> list[Hunk]:
    """Apply each hunk whose lines `folder` still has; return the others."""
    return [hunk for hunk in parse(patch) if not _applied(hunk, folder / hunk.path)]


def _applied(hunk: Hunk, file: Path) -> bool:
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    size = len(hunk.before)
    places = [start for start in range(len(lines)) if lines[start : start + size] == hunk.before]
    if not places:
        return False
    start = min(places, key=lambda place: abs(place + 1 - hunk.line))
    lines[start : start + size] = hunk.after
    file.write_text("".join(lines))
    return True


def difference(before: Path, after: Path) -> str:
    """Return the patch that turns the Python files of one folder into those of the same names in the other."""
    names = [file.relative_to(before).as_posix() for file in sorted(before.rglob("*.py"))]
    return "".join(line for name in names if (after / name).exists() for line in _changes(before, after, name))


def _changes(before: Path, after: Path, name: str) -> Iterator[str]:
    old, new = [(folder / name).read_text().splitlines(keepends=True) for folder in (before, after)]
    return difflib.unified_diff(old, new, f"a/{name}", f"b/{name}")
