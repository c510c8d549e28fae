"""The rules about one revision as a whole: what it mixes, and its own file."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from ..sql.action import Action
from ..sql.rendering import Rendered, Statement
from ..sql.tables import Tables
from .rules import Hit, hit
from .table_rules import check

_READS = {"select", "set", "show", "reset", "comment", "analyze"}
_EXPANDS, _CONTRACTS = {"add column", "create table"}, {"drop column", "drop table"}
_ALTERS = {
    *("add column", "drop column", "rename column", "rename table", "change type", "set not null", "drop not null"),
    *("alter column", "alter table", "create index", "drop table", "add check", "add foreign key", "add unique"),
    *("add primary key", "add exclude", "drop constraint", "validate constraint"),
}
"""What takes a lock on an existing table that reading or writing rows conflicts with, or holds it."""
_LONGEST_ID = 32

Done = tuple[Statement, Action]


def check_revision(rendered: Rendered, known: Tables) -> Iterator[Hit]:
    """Yield the hits in a revision; `known` is the state before it, and afterwards the state after it."""
    created: set[str] = set()
    for statement in rendered.statements:
        for action in statement.actions:
            if action.kind == "create type" and action.on in known.types and not statement.guarded:
                yield hit("type-created-twice", statement.line, table=action.on)
            # a table that exists is not new, and IF NOT EXISTS may find one
            if action.kind == "create table" and action.on not in known.columns:
                created.add(action.on)
        yield from check(statement, known, created)
        known.learn(statement.actions)
    done = [(one, action) for one in rendered.statements for action in one.actions if action.kind not in _READS]
    for rule in (_enum_values, _two_phases, _mixed, _data_and_schema, _validation, _broken_index):
        yield from rule(done, created)
    if rendered.stopped is not None:
        yield hit("not-rendered", rendered.stopped_at, other=rendered.stopped_at, why=rendered.stopped)


def check_file(path: Path, revision: str) -> Iterator[Hit]:
    """Yield the hits in the text of a revision file."""
    module = ast.parse(path.read_bytes())
    functions = {node.name: node for node in module.body if isinstance(node, ast.FunctionDef)}
    upgrade, downgrade = functions.get("upgrade"), functions.get("downgrade")
    if upgrade is not None and not _empty(upgrade) and (downgrade is None or _empty(downgrade)):
        yield hit("no-downgrade", (downgrade or upgrade).lineno)
    if len(revision) > _LONGEST_ID:
        yield hit("long-id", line_of_id(path), table=revision)


def line_of_id(path: Path) -> int:
    """Return the line that assigns `revision`."""
    for node in ast.parse(path.read_bytes()).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == "revision" for target in targets):
            return node.lineno
    return 1


def _empty(function: ast.FunctionDef) -> bool:
    # a docstring explains why nothing is undone
    return all(
        isinstance(node, ast.Pass) or (isinstance(node, ast.Expr) and getattr(node.value, "value", "") is ...)
        for node in function.body
    )


def _enum_values(done: list[Done], _created: set[str]) -> Iterator[Hit]:
    added: dict[tuple[int, str], bool] = {}
    for statement, action in done:
        if statement.transaction is None:
            continue
        for value in statement.strings:
            if added.pop((statement.transaction, value), False) and action.kind != "add value":
                yield hit("enum-value-in-transaction", statement.line, column=value)
        if action.kind == "add value":
            added[statement.transaction, action.name.strip("'")] = True


def _two_phases(done: list[Done], created: set[str]) -> Iterator[Hit]:
    expands = [one for one, action in done if action.kind in _EXPANDS]
    drops = [one for one, action in done if action.kind in _CONTRACTS and action.on not in created]
    if expands and drops:
        yield hit("two-phases", drops[0].line, other=drops[0].line)


def _mixed(done: list[Done], _created: set[str]) -> Iterator[Hit]:
    blocks = [one for one, _ in done if one.transaction is None]
    others = [one for one, _ in done if one.transaction is not None]
    if blocks and others:
        yield hit("mixed-autocommit", others[0].line, other=blocks[0].line)


def _data_and_schema(done: list[Done], created: set[str]) -> Iterator[Hit]:
    writes: dict[int | None, int] = {}
    for one, action in reversed(done):
        if action.kind == "write" and one.transaction is not None:
            writes[one.transaction] = one.line
    alters = ((one, action.on) for one, action in done if action.kind in _ALTERS and action.on not in created)
    for statement, table in alters:
        if statement.transaction in writes:
            yield hit("data-and-schema", statement.line, table=table, other=writes[statement.transaction])
            return


def _validation(done: list[Done], created: set[str]) -> Iterator[Hit]:
    locked: dict[tuple[int, str], int] = {}
    for statement, action in done:
        if statement.transaction is None or action.on in created:
            continue
        key = (statement.transaction, action.on)
        if action.kind == "validate constraint":
            if key in locked:
                yield hit("validate-in-transaction", statement.line, table=action.on, other=locked[key])
        elif action.kind in _ALTERS:
            locked.setdefault(key, statement.line)


def _broken_index(done: list[Done], _created: set[str]) -> Iterator[Hit]:
    dropped: set[str] = set()
    for statement, action in done:
        if action.kind == "drop index":
            dropped.add(action.name)
        guarded = action.kind == "create index" and {"concurrently", "if not exists"} <= action.facts
        if guarded and action.name not in dropped:
            yield hit("concurrent-if-not-exists", statement.line, table=action.on)
