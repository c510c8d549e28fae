"""The kind of a statement, for people."""

from __future__ import annotations

from collections.abc import Sequence

from .action import Action
from .tokens import Token

_OBJECTS = frozenset(
    "concurrently constraint from index into materialized or replace sequence table temporary trigger type unique "
    "view".split()
)
_ALTERATIONS = {
    "change type": "ALTER COLUMN TYPE",
    "drop not null": "ALTER COLUMN DROP NOT NULL",
    "rename table": "RENAME TO",
    "set not null": "ALTER COLUMN SET NOT NULL",
}
"""The words of SQL for what an action of ALTER TABLE is called otherwise."""


def kind_of(tokens: Sequence[Token], actions: Sequence[Action]) -> str:
    """Return the kind of a statement for people: CREATE UNIQUE INDEX CONCURRENTLY, ALTER TABLE ADD COLUMN, UPDATE."""
    words = [token.text for token in tokens]
    if words[:2] == ["alter", "table"]:
        return "ALTER TABLE " + ", ".join(dict.fromkeys(_alteration(action) for action in actions))
    taken = 1
    while taken < len(words) and tokens[taken].kind == "word" and words[taken] in _OBJECTS:
        taken += 1
    full = " FULL" if any("full" in action.facts for action in actions) else ""
    return " ".join(words[:taken]).upper() + full


def _alteration(action: Action) -> str:
    if action.kind == "alter table":
        return _first_words(action.text)
    if action.kind == "alter column":
        return f"ALTER COLUMN {_first_words(action.text)}"
    return _ALTERATIONS.get(action.kind, action.kind.upper())


def _first_words(text: str) -> str:
    words = text.partition("(")[0].split()
    several = words[:1] and words[0] in {"enable", "disable", "attach", "detach", "set", "drop", "replica", "no"}
    return " ".join(words[: 2 if several else 1]).upper()
