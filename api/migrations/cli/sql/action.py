"""What a statement does to one object, as far as `lint` and `plan` need to know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from .tokens import Token


@dataclass(frozen=True)
class Action:
    """One thing that a statement does to one object; an ALTER TABLE may do several."""

    kind: str
    """Such as "add column" or "create index"."""
    on: str = ""
    """The table, or the type."""
    name: str = ""
    """The column, constraint, index or value."""
    text: str = ""
    """The type of a column, or the condition of a check."""
    default: Sequence[Token] = ()
    """The default of a new column."""
    refers: str = ""
    """The other table: the one that a foreign key references, or a partition or its parent."""
    facts: frozenset[str] = field(default_factory=frozenset)
    """Words of the statement that matter: concurrently, if not exists, not valid, using index, …"""


def facts_of(**facts: bool) -> frozenset[str]:
    """Return the names of the facts that hold."""
    return frozenset(name for name, holds in facts.items() if holds)
