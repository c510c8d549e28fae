"""The rules about one statement: the lock that it takes on an existing table, and what the old release misses."""

from __future__ import annotations

from collections.abc import Iterator

from ..sql.action import Action
from ..sql.rendering import Statement
from ..sql.rewrites import rewrite, volatile
from ..sql.tables import Tables
from .rules import Hit, hit

_REFERENCED, _ITSELF = " and of the table that it references", " and its readers"
_SAFE_WAYS = (
    ({"create index", "reindex"}, "concurrently", "index-not-concurrent"),
    ({"add foreign key", "add check"}, "not valid", "constraint-validates"),
    ({"add unique", "add primary key", "add exclude"}, "using index", "unique-without-index"),
)
"""The actions that have a safe way, the word that makes them safe, and the rule."""


def check(statement: Statement, known: Tables, created: set[str]) -> Iterator[Hit]:
    """Yield the hits of a statement; `known` is the state before it, `created` the tables of its revision."""
    for action in statement.actions:
        yield from _concurrency(action, statement)
        if action.on not in created:
            yield from _lock(action, statement, known)
            yield from _release(action, statement.line)


def concurrent(action: Action) -> bool:
    """Return whether the action must not be in a transaction."""
    return "concurrently" in action.facts or action.kind == "vacuum"


def _concurrency(action: Action, statement: Statement) -> Iterator[Hit]:
    if concurrent(action) and statement.transaction is not None:
        yield hit("concurrent-in-transaction", statement.line, table=action.on or action.name)


def _lock(action: Action, statement: Statement, known: Tables) -> Iterator[Hit]:
    why = rewrite(action, known.columns.get(action.on, {}).get(action.name) or statement.was)
    if why:
        yield hit("table-rewrite", statement.line, table=action.on or "the vacuumed tables", why=why)
    if action.kind == "add column":
        yield from _new_column(action, statement.line)
    proven = known.proves_not_null(action.on, action.name)
    if action.kind == "set not null" and "not valid" not in action.facts and not proven:
        yield hit("set-not-null", statement.line, table=action.on, column=action.name)
    for kinds, safe, rule in _SAFE_WAYS:
        if action.kind in kinds and safe not in action.facts:
            readers = _REFERENCED if action.kind == "add foreign key" else _ITSELF
            yield hit(rule, statement.line, table=action.on, readers=readers)


def _new_column(action: Action, line: int) -> Iterator[Hit]:
    table, facts = action.on, action.facts
    why = volatile(action.default)
    if "identity" in facts:
        why = f"each row gets a value of the sequence of {action.name}"
    if "stored" in facts:
        yield hit("table-rewrite", line, table=table, why=f"{action.name} is a stored generated column")
    elif why:
        yield hit("volatile-default", line, table=table, why=why)
    elif "check" in facts:
        yield hit("constraint-validates", line, table=table, readers=_ITSELF)
    if "references" in facts and "default" in facts:
        yield hit("constraint-validates", line, table=table, readers=_REFERENCED)
    if "unique" in facts:
        yield hit("unique-without-index", line, table=table)
    if "not null" in facts and not facts & {"default", "identity", "stored"}:
        yield hit("required-column", line, table=table, column=action.name)


def _release(action: Action, line: int) -> Iterator[Hit]:
    if action.kind in {"rename column", "rename table", "rename value", "drop column", "drop table"}:
        yield hit(action.kind.replace(" ", "-"), line, table=action.on, column=action.name)
