"""What a statement of PostgreSQL does, as far as the rules of `lint` need to know."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from .sql import Reader, Token, joined, parts

_COLUMN_ENDS = set(
    "default not null primary unique references check generated collate constraint storage compression using".split()
)
"""The words that end the type of a column."""
CONSTRAINTS = ("foreign key", "check", "unique", "primary key", "exclude", "not null")
WRITES = {"update", "delete", "insert", "merge"}


@dataclass(frozen=True)
class Action:
    """One thing that a statement does to one object; an ALTER TABLE may do several."""

    kind: str
    """Such as "add column" or "create index"."""
    on: str = ""
    """The table, or the type."""
    name: str = ""
    """The column, constraint, index or value; the table that a foreign key references is in `facts`."""
    text: str = ""
    """The type of a column, or the condition of a check."""
    default: Sequence[Token] = ()
    """The default of a new column."""
    facts: frozenset[str] = field(default_factory=frozenset)
    """Words of the statement that matter: concurrently, if not exists, not valid, using index, …"""


def actions(tokens: Sequence[Token]) -> list[Action]:
    """Return what a statement does; an unknown one is one action whose kind is its first word."""
    reader = Reader(tokens)
    for words, read in _STATEMENTS.items():
        if reader.take(words):
            return list(read(reader))
    first = tokens[0].text if tokens else ""
    if first == "with":
        writes = [token.text for token in tokens if token.kind == "word" and token.text in WRITES]
        return [Action("write")] if writes else [Action("select")]
    return [Action(first)]


def columns(tokens: Sequence[Token]) -> Iterator[Action]:
    """Yield the columns and constraints between the parentheses of CREATE TABLE."""
    for part in parts(tokens):
        reader = Reader(part)
        if reader.any_of("constraint", *CONSTRAINTS, "like"):
            yield from _constraint("", Reader(part))
        elif part:
            yield _column("", reader)


def _create_table(reader: Reader) -> Iterator[Action]:
    guarded = reader.take("if not exists")
    table = reader.name()
    yield Action("create table", table, facts=_facts(**{"if not exists": guarded}))
    if reader.rest and reader.rest[0].text == "(":
        for one in columns(reader.group()):
            yield Action(f"new {one.kind.removeprefix('add ')}", table, one.name, one.text)


def _alter_table(reader: Reader) -> Iterator[Action]:
    reader.take("if exists")
    reader.take("only")
    table = reader.name()
    for part in parts(reader.rest):
        yield from _alteration(table, Reader(part))


def _alteration(table: str, reader: Reader) -> Iterator[Action]:
    if reader.take("rename"):
        yield _rename(table, reader)
    elif reader.take("validate constraint"):
        yield Action("validate constraint", table, reader.name())
    elif reader.take("drop constraint"):
        reader.take("if exists")
        yield Action("drop constraint", table, reader.name())
    elif reader.take("drop"):
        reader.take("column")
        reader.take("if exists")
        yield Action("drop column", table, reader.name())
    elif reader.take("alter"):
        reader.take("column")
        yield _alter_column(table, reader)
    elif reader.take("add"):
        yield from _addition(table, reader)
    else:
        concurrently = reader.has("concurrently")
        yield Action("alter table", table, text=joined(reader.rest), facts=_facts(concurrently=concurrently))


def _addition(table: str, reader: Reader) -> Iterator[Action]:
    start = reader.at
    if reader.any_of("constraint", *CONSTRAINTS):
        reader.at = start
        yield from _constraint(table, reader)
    else:
        reader.take("column")
        reader.take("if not exists")
        yield _column(table, reader)


def _rename(table: str, reader: Reader) -> Action:
    if reader.take("to"):
        return Action("rename table", table, reader.name())
    if reader.take("constraint"):
        old = reader.name()
        reader.take("to")
        return Action("rename constraint", table, old, reader.name())
    reader.take("column")
    old = reader.name()
    reader.take("to")
    return Action("rename column", table, old, reader.name())


def _alter_column(table: str, reader: Reader) -> Action:
    column = reader.name()
    if reader.take("set not null"):
        return Action("set not null", table, column)
    if reader.any_of("type", "set data type"):
        using = parts(reader.rest, "using")
        facts = {f"using {joined(using[1])}"} if len(using) > 1 else set()
        return Action("change type", table, column, _type(reader.rest), facts=frozenset(facts))
    if reader.take("drop not null"):
        return Action("drop not null", table, column)
    return Action("alter column", table, column)


def _column(table: str, reader: Reader) -> Action:
    column = reader.name()
    kind, rest = _type(reader.rest), Reader(reader.rest)
    default = _default(reader.rest)
    facts = _facts(
        **{
            "not null": rest.has("not null") or rest.has("primary key"),
            "identity": rest.has("as identity") or "serial" in kind,
            "stored": rest.has("stored"),
            "unique": rest.has("unique") or rest.has("primary key"),
            "check": rest.has("check"),
            "references": rest.has("references"),
            "default": bool(default),
        }
    )
    return Action("add column", table, column, kind, default, facts)


def _constraint(table: str, reader: Reader) -> Iterator[Action]:
    name = reader.name() if reader.take("constraint") else ""
    kind = reader.any_of(*CONSTRAINTS)
    using, valid = reader.has("using index"), not reader.has("not valid")
    facts = _facts(**{"using index": using, "not valid": not valid})
    text = joined(reader.group()) if kind == "check" else ""
    if kind == "not null":
        yield Action("set not null", table, reader.name(), facts=facts)
    elif kind:
        yield Action(f"add {kind}", table, name, text, facts=facts)


def _type(tokens: Sequence[Token]) -> str:
    found: list[Token] = []
    for token in tokens:
        if token.kind == "word" and token.text in _COLUMN_ENDS:
            break
        found.append(token)
    return joined(found)


def _default(tokens: Sequence[Token]) -> list[Token]:
    found: list[Token] = []
    inside, depth = False, 0
    for token in tokens:
        depth += {"(": 1, ")": -1}.get(token.text, 0) if token.kind == "symbol" else 0
        if token.kind == "word" and depth == 0 and token.text in _COLUMN_ENDS:
            # DEFAULT NULL is no default, and IS NOT NULL needs parentheses in one
            inside = token.text == "default"
        elif inside:
            found.append(token)
    return found


def _create_index(reader: Reader, unique: bool = False) -> Iterator[Action]:
    concurrently, guarded = reader.take("concurrently"), reader.take("if not exists")
    name = "" if reader.take("on") else reader.name()
    if name:
        reader.take("on")
    reader.take("only")
    facts = {"concurrently": concurrently, "if not exists": guarded, "unique": unique}
    yield Action("create index", reader.name(), name, facts=_facts(**facts))


def _drop_index(reader: Reader) -> Iterator[Action]:
    concurrently = reader.take("concurrently")
    reader.take("if exists")
    yield Action("drop index", "", reader.name(), facts=_facts(concurrently=concurrently))


def _reindex(reader: Reader) -> Iterator[Action]:
    concurrently = reader.has("concurrently")
    reader.any_of("index", "table", "schema", "database")
    reader.take("concurrently")
    yield Action("reindex", reader.name(), facts=_facts(concurrently=concurrently))


def _drop_table(reader: Reader) -> Iterator[Action]:
    reader.take("if exists")
    for part in parts(reader.rest):
        yield Action("drop table", Reader(part).name())


def _alter_type(reader: Reader) -> Iterator[Action]:
    name = reader.name()
    if reader.take("add value"):
        reader.take("if not exists")
        yield Action("add value", name, reader.name())
    elif reader.take("rename value"):
        yield Action("rename value", name, reader.name())
    else:
        yield Action("alter type", name)


def _drop_type(reader: Reader) -> Iterator[Action]:
    reader.take("if exists")
    for part in parts(reader.rest):
        yield Action("drop type", Reader(part).name())


def _insert(reader: Reader) -> Iterator[Action]:
    table = reader.name()
    yield Action("write" if reader.has("select") else "insert", table)


def _write(reader: Reader) -> Iterator[Action]:
    reader.take("only")
    yield Action("write", reader.name())


def _named(kind: str) -> Callable[[Reader], Iterator[Action]]:
    def read(reader: Reader) -> Iterator[Action]:
        yield Action(kind, reader.name())

    return read


def _facts(**facts: Any) -> frozenset[str]:
    return frozenset(name for name, holds in facts.items() if holds)


_STATEMENTS: dict[str, Callable[[Reader], Iterator[Action]]] = {
    "create table": _create_table,
    "create unlogged table": _create_table,
    "create temporary table": _create_table,
    "create temp table": _create_table,
    "alter table": _alter_table,
    "drop table": _drop_table,
    "create index": _create_index,
    "create unique index": lambda reader: _create_index(reader, unique=True),
    "drop index": _drop_index,
    "reindex": _reindex,
    "create type": _named("create type"),
    "drop type": _drop_type,
    "alter type": _alter_type,
    "insert into": _insert,
    "update": _write,
    "delete from": _write,
    "merge into": _write,
    "cluster": _named("cluster"),
    "vacuum": lambda reader: iter([Action("vacuum", facts=_facts(full=reader.has("full")))]),
    "begin": lambda reader: iter([Action("begin")]),
    "start transaction": lambda reader: iter([Action("begin")]),
    "commit": lambda reader: iter([Action("commit")]),
}
