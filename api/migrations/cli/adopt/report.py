"""The result of `adopt`: facts about the project, and changes as unified diffs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from difflib import unified_diff
from enum import StrEnum
from pathlib import Path

from ..results import Result
from .project import without_login


class Need(StrEnum):
    """What a fact asks of a person."""

    OK = "ok"
    DO = "do"
    MAY = "may"
    """Both is right; the message says what follows."""
    UNKNOWN = "unknown"
    """It could not be checked."""


@dataclass(frozen=True)
class Fact:
    """One thing that was found, and what follows from it."""

    topic: str
    need: Need
    message: str


@dataclass
class Change:
    """A change of one file: its text before and after."""

    path: str
    before: bytes = field(repr=False)
    after: bytes = field(repr=False)
    why: str
    safe: bool = False
    """Whether `--write` makes it."""
    written: bool = False

    @property
    def diff(self) -> str:
        """The unified diff, without the user and password of a URL."""
        before, after = (text.decode(errors="replace").splitlines(keepends=True) for text in (self.before, self.after))
        lines = unified_diff(before, after, f"a/{self.path}", f"b/{self.path}", n=2)
        return "".join(without_login(line) if line.endswith("\n") else f"{line}\n" for line in lines)

    def write(self, root: Path) -> bool:
        """Write the file unless it is not what it was when it was read; return whether it was written."""
        file = root / self.path
        try:
            if not file.is_symlink() and file.read_bytes() == self.before:
                file.write_bytes(self.after)
                self.written = True
        except OSError:
            return False
        return self.written


@dataclass(frozen=True, kw_only=True)
class Adoption(Result):
    """What `adopt` found in a project, and its changes."""

    facts: Sequence[Fact]
    changes: Sequence[Change]

    def lines(self) -> Iterator[str]:
        """Yield one line for each fact, then the diffs."""
        yield from (f"{fact.need:8} {fact.topic:12} {fact.message}" for fact in self.facts)
        for change in self.changes:
            yield ""
            yield f"{change.path}: {change.why}{_end(change)}"
            yield from change.diff.splitlines()
        yield ""
        yield self.message

    def as_json(self) -> dict[str, object]:
        """Return the facts and the changes with their diffs."""
        shown = ("path", "why", "safe", "written", "diff")
        changes = [{name: getattr(change, name) for name in shown} for change in self.changes]
        facts = [vars(fact) for fact in self.facts]
        return {"facts": facts, "changes": changes, "message": self.message}


def _end(change: Change) -> str:
    if change.written:
        return " (written)"
    return " (adopt --write makes this change)" if change.safe else ""
