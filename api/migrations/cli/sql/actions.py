"""What a statement of PostgreSQL does, as far as `lint` and `plan` need to know."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from .action import Action, facts_of
from .object_actions import STATEMENTS, each_named, named
from .table_actions import alter_table, create_table
from .tokens import Reader, Token

_WRITES = {"update", "delete", "insert", "merge"}


def actions(tokens: Sequence[Token]) -> list[Action]:
    """Return what a statement does; an unknown one is one action whose kind is its first word."""
    reader = Reader(tokens)
    for words, read in _STATEMENTS.items():
        if reader.take(words):
            return list(read(reader)) or [Action(words)]
    first = tokens[0].text if tokens else ""
    if first == "with":
        writes = [token.text for token in tokens if token.kind == "word" and token.text in _WRITES]
        return [Action("write")] if writes else [Action("select")]
    return [Action(first)]


def _create_index(reader: Reader, unique: bool = False) -> Iterator[Action]:
    concurrently, guarded = reader.take("concurrently"), reader.take("if not exists")
    name = "" if reader.take("on") else reader.name()
    if name:
        reader.take("on")
    reader.take("only")
    facts = {"concurrently": concurrently, "if not exists": guarded, "unique": unique}
    yield Action("create index", reader.name(), name, facts=facts_of(**facts))


def _drop_index(reader: Reader) -> Iterator[Action]:
    concurrently = reader.take("concurrently")
    reader.take("if exists")
    yield Action("drop index", "", reader.name(), facts=facts_of(concurrently=concurrently))


def _reindex(reader: Reader) -> Iterator[Action]:
    concurrently = reader.has("concurrently")
    if reader.rest and reader.rest[0].text == "(":
        reader.group()
    of = reader.any_of("index", "table", "schema", "database", "system")
    reader.take("concurrently")
    name = reader.name()
    yield Action("reindex", name, of, facts=facts_of(concurrently=concurrently))


def _alter_type(reader: Reader) -> Iterator[Action]:
    name = reader.name()
    if reader.take("add value"):
        reader.take("if not exists")
        yield Action("add value", name, reader.name())
    elif reader.take("rename value"):
        yield Action("rename value", name, reader.name())
    else:
        yield Action("alter type", name)


def _insert(reader: Reader) -> Iterator[Action]:
    table = reader.name()
    yield Action("write" if reader.has("select") else "insert", table)


def _write(reader: Reader) -> Iterator[Action]:
    reader.take("only")
    yield Action("write", reader.name())


_STATEMENTS: dict[str, Callable[[Reader], Iterator[Action]]] = {
    "create table": create_table,
    "create unlogged table": create_table,
    "create temporary table": create_table,
    "create temp table": create_table,
    "alter table": alter_table,
    "drop table": each_named("drop table"),
    "create index": _create_index,
    "create unique index": lambda reader: _create_index(reader, unique=True),
    "drop index": _drop_index,
    "reindex": _reindex,
    "create type": named("create type"),
    "drop type": each_named("drop type"),
    "alter type": _alter_type,
    "insert into": _insert,
    "update": _write,
    "delete from": _write,
    "merge into": _write,
    **STATEMENTS,
    "begin": lambda reader: iter([Action("begin")]),
    "start transaction": lambda reader: iter([Action("begin")]),
    "commit": lambda reader: iter([Action("commit")]),
}
