"""What the rules say about an older release on the schema after revisions that declare no phase."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from sqlalchemy import Dialect

from ...core.rollback import Verdict
from ...execution.revisions import Revisions
from ..sql.action import Action
from ..sql.rendering import Rendered, Statement
from .command import checked
from .mark_rules import BREAKS
from .rules import RULES, Hit

_HARMLESS = {
    *("create table", "new column", "add column", "create index", "create type", "add value", "create sequence"),
    *(
        "create view",
        "create statistics",
        "alter index",
        "drop not null",
        "validate constraint",
        "reindex",
        "vacuum",
        "cluster",
        "write",
        "insert",
        "comment",
    ),
    *("select", "set", "show", "reset", "analyze", "lock", "refresh"),
}
"""The kinds of actions after which an older release runs, unless one of `BREAKS` finds them."""

_CALL = re.compile(r"\b(?!(?:pg_\w+|setval|set_config|nextval)\()[\w.]+\(")
"""A call of a function that may change the schema."""

Judgement = tuple[Verdict, str]


def by_rules(revisions: Revisions, beyond: frozenset[str], dialect: Dialect | None = None) -> dict[str, Judgement]:
    """Return the verdict about each revision of `beyond`, which an older release does not contain, and its reason.

    What one of them creates, the release does not know: a later one may rename or drop it.
    """
    new, found = _New(), {}
    for rendered, hits in checked(revisions, frozenset(revisions.code.parents), dialect):
        if rendered.script.revision in beyond:
            found[rendered.script.revision] = _judged(rendered, hits, new)
        else:
            new.learn_indexes(action for statement in rendered.statements for action in statement.actions)
    return found


class _New:
    """The tables and columns that the release does not know, and which of the columns have a default.

    `indexes` are those that are not unique, of all revisions.
    """

    def __init__(self) -> None:
        self.tables: set[str] = set()
        self.columns: dict[tuple[str, str], bool] = {}
        self.indexes: set[str] = set()

    def learn_indexes(self, actions: Iterable[Action]) -> None:
        self.indexes.update(one.name for one in actions if one.kind == "create index" and "unique" not in one.facts)

    def learn(self, action: Action) -> None:
        self.learn_indexes([action])
        if action.facts & {"if not exists", "temporary"}:
            return  # the release may know what exists already
        if action.kind == "create table":
            self.tables.add(action.on)
        elif action.kind == "add column":
            self.columns[action.on, action.name] = "default" in action.facts

    def knows(self, table: object, column: object) -> bool:
        return table in self.tables or (table, column) in self.columns


def _judged(rendered: Rendered, hits: list[Hit], new: _New) -> Judgement:
    found: list[Judgement] = []
    for statement in rendered.statements:
        for action in statement.actions:
            broken = [one.rule for one in hits if one.line == statement.line and _is_about(one, action)]
            if broken and not new.knows(action.on, action.name):
                found.append((Verdict.FAILS, f"by lint's rules: {RULES[broken[0]].finds} ({_on(action)})"))
            found += _restrictions(action, statement, new)
            new.learn(action)
    if rendered.stopped is not None:
        found.append((Verdict.UNKNOWN, f"lint cannot execute it without a database: {rendered.stopped}"))
    if rendered.reads:
        found.append((Verdict.UNKNOWN, "what it does depends on what it reads from the database"))
    for verdict in (Verdict.FAILS, Verdict.UNKNOWN):
        if (first := next((one for one in found if one[0] is verdict), None)) is not None:
            return first
    return Verdict.RUNS, "by lint's rules: nothing that an older release uses is renamed, dropped or required"


def _is_about(one: Hit, action: Action) -> bool:
    return one.rule in BREAKS and (one.words["table"], one.words.get("column")) == (action.on, action.name)


def _restrictions(action: Action, statement: Statement, new: _New) -> Iterator[Judgement]:
    """Yield what may refuse rows that an older release writes, or is not known to the rules."""
    table, column = action.on, action.name
    if action.kind == "set not null" and (table, column) in new.columns:
        if not new.columns[table, column]:
            yield Verdict.FAILS, f"by lint's rules: INSERTs of an older release do not fill {table}.{column}"
    elif "unique" in action.facts and action.kind == "create index" and table not in new.tables:
        yield Verdict.UNKNOWN, f"a unique index on {table} may refuse what an older release writes"
    elif action.kind == "drop index":
        if action.name not in new.indexes:
            yield Verdict.UNKNOWN, f"index {action.name} may be unique, and ON CONFLICT of an older release may need it"
    elif action.kind == "add column" and ("check" in action.facts or {"unique", "default"} <= action.facts):
        yield Verdict.UNKNOWN, f"the constraint of {_on(action)} may refuse what an older release writes"
    elif action.kind == "select" and not table and _CALL.search(statement.sql):
        yield Verdict.UNKNOWN, "the rules do not know what the functions do that it calls"
    elif action.kind not in _HARMLESS and action.kind.replace(" ", "-") not in BREAKS and table not in new.tables:
        yield (
            Verdict.UNKNOWN,
            f"the rules do not know whether an older release runs after: {action.kind}, {_on(action)}",
        )


def _on(action: Action) -> str:
    return f"{action.on}.{action.name}" if action.on and action.name else action.on or action.name or "no table"
