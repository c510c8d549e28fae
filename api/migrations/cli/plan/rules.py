"""The lock modes and rewrites of statements by rule: what PostgreSQL's documentation says of each kind.

Sources: "Explicit Locking" for the commands that it lists by mode; the page of each command for the rest: ALTER TABLE
("An ACCESS EXCLUSIVE lock is acquired unless explicitly noted", and its "Notes" for rewrites and scans), ALTER INDEX,
CREATE INDEX, CREATE TABLE (foreign keys, PARTITION OF), REINDEX, REFRESH MATERIALIZED VIEW, LOCK, COMMENT, VACUUM. Of
several actions in one ALTER TABLE the strictest lock counts. What the documentation leaves out is not guessed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from ..sql.action import Action
from ..sql.rendering import Statement
from ..sql.rewrites import rewrite, volatile
from ..sql.tables import Tables
from .lock_modes import Lock, LockMode

_MODES = {
    "analyze": LockMode.SHARE_UPDATE_EXCLUSIVE,
    "cluster": LockMode.ACCESS_EXCLUSIVE,
    "comment": LockMode.SHARE_UPDATE_EXCLUSIVE,
    "copy to": LockMode.ACCESS_SHARE,
    "create index": LockMode.SHARE,
    "create statistics": LockMode.SHARE_UPDATE_EXCLUSIVE,
    "create trigger": LockMode.SHARE_ROW_EXCLUSIVE,
    "drop index": LockMode.ACCESS_EXCLUSIVE,
    "drop table": LockMode.ACCESS_EXCLUSIVE,
    "drop view": LockMode.ACCESS_EXCLUSIVE,
    "insert": LockMode.ROW_EXCLUSIVE,
    "refresh": LockMode.ACCESS_EXCLUSIVE,
    "reindex": LockMode.SHARE,
    "select": LockMode.ACCESS_SHARE,
    "truncate": LockMode.ACCESS_EXCLUSIVE,
    "validate constraint": LockMode.SHARE_UPDATE_EXCLUSIVE,
    "vacuum": LockMode.SHARE_UPDATE_EXCLUSIVE,
    "write": LockMode.ROW_EXCLUSIVE,
}
"""The mode on the object of an action, unless a word of the statement changes it."""
_ALTERS = frozenset(
    "add column,add check,add unique,add primary key,add exclude,alter column,alter table,change type,drop column,"
    "drop constraint,drop not null,rename column,rename constraint,rename table,set not null".split(",")
)
"""The actions of ALTER TABLE that take ACCESS EXCLUSIVE unless noted below."""
_NOTED = (
    (r"(enable|disable) (replica |always )?trigger\b", LockMode.SHARE_ROW_EXCLUSIVE),
    (r"(cluster on|set without cluster)\b", LockMode.SHARE_UPDATE_EXCLUSIVE),
    (
        r"(re)?set ?\((?:(fillfactor|toast|autovacuum|parallel_workers)[\w.]*(=[^,)]*)?,?)+\)",
        LockMode.SHARE_UPDATE_EXCLUSIVE,
    ),
    (r"attach partition\b", LockMode.SHARE_UPDATE_EXCLUSIVE),
    (r"detach partition\b.*\bconcurrently\b", LockMode.SHARE_UPDATE_EXCLUSIVE),
)
"""The actions of ALTER TABLE for which its page notes another mode."""
_SCANS = frozenset(
    {
        "add check",
        "add foreign key",
        "add unique",
        "add primary key",
        "add exclude",
        "create index",
        "reindex",
        "refresh",
    }
)
"""What reads all rows, besides what rewrites them."""
_DATA = frozenset({"write", "insert", "select", "copy to"})
"""What reads or changes rows of its choice."""
_UNLOCKED = re.compile(
    r"(create|drop) (or replace )?(type|function|procedure|extension|schema|domain|role|cast|collation)\b"
    # ALTER DOMAIN may check the tables that use it, and an extension's script may do anything
    r"|alter (type|function|procedure|schema|role|collation)\b"
    r"|create (temp(orary)? )?(sequence|view|materialized)\b|(set|show|reset|grant|revoke|begin|commit)\b|add value"
)
"""The beginnings of statements and the kinds for which no lock on an existing table is documented."""

_CASCADES = re.compile(r"^(alter|drop|truncate)\b.*\bcascade$", re.DOTALL)
"""What may act on objects that the statement does not name."""


@dataclass(frozen=True)
class Effect:
    """What a statement does to existing tables."""

    locks: tuple[Lock, ...] = ()
    rewrites: tuple[str, ...] = ()
    """The tables whose rows are all written anew."""
    reads: tuple[str, ...] = ()
    """The tables of which all rows are read, besides those that are rewritten."""
    known: bool = True
    """Whether the documentation says what it locks."""


def effect(statement: Statement, known: Tables) -> Effect:
    """Return the effect of a statement; `known` are the tables before it."""
    locks: dict[str, Lock] = {}
    rewrites: dict[str, None] = {}
    reads: dict[str, None] = {}
    documented = not _CASCADES.search(statement.sql)
    for action in statement.actions:
        found = list(_locks(action, known))
        documented = documented and (bool(found) or _needs_none(action, statement.sql))
        for lock in found:
            stronger = max(lock, locks.get(lock.on, lock), key=lambda each: each.mode)
            locks[lock.on] = stronger
        before = known.columns.get(action.on, {}).get(action.name) or statement.was
        if rewrite(action, before) or _fills(action):
            rewrites[action.on] = None
        elif scans(action, known):
            # of an attached partition the rows are checked, not those of its parent
            of = (action.refers,) if action.kind == "alter table" else (action.on, action.refers)
            reads |= dict.fromkeys(filter(None, of))
    unread = tuple(table for table in reads if table not in rewrites)
    return Effect(tuple(locks.values()), tuple(rewrites), unread, documented)


def scans(action: Action, known: Tables) -> bool:
    """Return whether an action reads all rows of its table, without writing them anew."""
    if action.kind in _SCANS:
        return not action.facts & {"not valid", "using index"}
    if action.kind == "add column":
        return bool(action.facts & {"check", "unique"}) or {"references", "default"} <= action.facts
    if action.kind == "set not null":
        return "not valid" not in action.facts and not known.proves_not_null(action.on, action.name)
    return action.kind == "validate constraint" or action.text.startswith("attach partition")


def handles_rows(statement: Statement) -> bool:
    """Return whether a statement reads or changes rows of its choice, of which an empty clone shows nothing."""
    return any(action.kind in _DATA for action in statement.actions)


def changes_rows(statement: Statement) -> bool:
    """Return whether a statement changes rows of its choice."""
    return any(action.kind in {"write", "insert"} for action in statement.actions)


def _locks(action: Action, known: Tables) -> Iterator[Lock]:
    mode = _mode(action)
    if action.kind == "add foreign key":
        yield from (Lock(table, LockMode.SHARE_ROW_EXCLUSIVE) for table in (action.on, action.refers))
    elif action.kind in {"new foreign key", "new column"} and action.refers:
        yield Lock(action.refers, LockMode.SHARE_ROW_EXCLUSIVE)
    elif action.kind == "create table" and action.refers:
        yield Lock(action.refers, LockMode.ACCESS_EXCLUSIVE)
    elif action.kind in {"drop index", "reindex", "alter index"}:
        yield from _index_locks(action, mode, known)
    elif mode is not None and action.on:
        yield Lock(action.on, mode)
        if action.kind in {"drop table", "drop constraint"}:  # of a foreign key, the other table's triggers go too
            yield from (Lock(table, mode) for table in known.referenced(action.on, action.name))
        if action.refers:  # an attached or detached partition, or the table that a new column references
            of_column = action.kind == "add column"
            yield Lock(action.refers, LockMode.SHARE_ROW_EXCLUSIVE if of_column else LockMode.ACCESS_EXCLUSIVE)


def _index_locks(action: Action, mode: LockMode | None, known: Tables) -> Iterator[Lock]:
    concurrently = "concurrently" in action.facts
    if action.kind == "alter index":
        renames = action.text.startswith("rename")
        yield Lock(
            action.name, LockMode.SHARE_UPDATE_EXCLUSIVE if renames else LockMode.ACCESS_EXCLUSIVE, is_index=True
        )
        return
    whole = action.kind == "reindex" and action.name != "index"
    index = action.name if action.kind == "drop index" else action.on
    table = action.on if whole else known.indexes.get(index, f"the table of {index}")
    if mode is not None:
        yield Lock(table, mode)
        own = mode if concurrently else LockMode.ACCESS_EXCLUSIVE
        yield Lock(f"the indexes of {table}" if whole else index, own, is_index=True)


def _mode(action: Action) -> LockMode | None:
    facts, kind, text = action.facts, action.kind, action.text
    if kind == "lock":
        return LockMode.named(text)
    if kind == "refresh" and "concurrently" in facts:
        return LockMode.EXCLUSIVE
    if kind in {"create index", "drop index", "reindex"} and "concurrently" in facts:
        return LockMode.SHARE_UPDATE_EXCLUSIVE
    if kind == "vacuum" and "full" in facts:
        return LockMode.ACCESS_EXCLUSIVE
    if kind == "select" and text:
        return LockMode.ROW_SHARE
    if kind == "alter column" and re.match(r"set statistics\b|(re)?set ?\(", text):
        return LockMode.SHARE_UPDATE_EXCLUSIVE
    noted = (mode for words, mode in _NOTED if kind == "alter table" and re.match(words, text))
    return next(noted, LockMode.ACCESS_EXCLUSIVE if kind in _ALTERS else _MODES.get(kind))


def _fills(action: Action) -> bool:
    if action.kind == "refresh":
        return "concurrently" not in action.facts
    # a new column that has a value for each row of its own
    return action.kind == "add column" and (
        bool(action.facts & {"stored", "identity"}) or bool(volatile(action.default))
    )


def _needs_none(action: Action, sql: str) -> bool:
    created = action.kind.startswith("new ") or action.kind in {"create table", "create view", "comment", "select"}
    return created or _UNLOCKED.match(sql) is not None or _UNLOCKED.match(action.kind) is not None
