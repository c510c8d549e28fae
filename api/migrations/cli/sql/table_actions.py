"""What CREATE TABLE and ALTER TABLE do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .action import Action, facts_of
from .tokens import Reader, Token, joined, parts

_COLUMN_ENDS = set(
    "default not null primary unique references check generated collate constraint storage compression using".split()
)
"""The words that end the type of a column."""
_CONSTRAINTS = ("foreign key", "check", "unique", "primary key", "exclude", "not null")


def create_table(reader: Reader) -> Iterator[Action]:
    """Yield the new table, its columns and its constraints."""
    guarded = reader.take("if not exists")
    table = reader.name()
    parent = reader.name() if reader.take("partition of") else ""
    yield Action("create table", table, refers=parent, facts=facts_of(**{"if not exists": guarded}))
    if reader.rest and reader.rest[0].text == "(":
        for one in _columns(reader.group()):
            yield Action(f"new {one.kind.removeprefix('add ')}", table, one.name, one.text, refers=one.refers)


def alter_table(reader: Reader) -> Iterator[Action]:
    """Yield what each part of the statement does."""
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
        facts, text = facts_of(concurrently=reader.has("concurrently")), joined(reader.rest)
        partition = reader.name() if reader.any_of("attach partition", "detach partition") else ""
        yield Action("alter table", table, text=text, refers=partition, facts=facts)


def _addition(table: str, reader: Reader) -> Iterator[Action]:
    start = reader.at
    if reader.any_of("constraint", *_CONSTRAINTS):
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
    return Action("alter column", table, column, joined(reader.rest))


def _column(table: str, reader: Reader) -> Action:
    column = reader.name()
    kind, rest = _type(reader.rest), Reader(reader.rest)
    default = _default(reader.rest)
    facts = facts_of(
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
    refers = Reader(rest.after("references")).name() if rest.has("references") else ""
    return Action("add column", table, column, kind, default, refers, facts)


def _constraint(table: str, reader: Reader) -> Iterator[Action]:
    name = reader.name() if reader.take("constraint") else ""
    kind = reader.any_of(*_CONSTRAINTS)
    using, valid = reader.has("using index"), not reader.has("not valid")
    facts = facts_of(**{"using index": using, "not valid": not valid})
    text = joined(reader.group()) if kind == "check" else ""
    refers = Reader(reader.after("references")).name() if kind == "foreign key" else ""
    if kind == "not null":
        yield Action("set not null", table, reader.name(), facts=facts)
    elif kind:
        yield Action(f"add {kind}", table, name, text, refers=refers, facts=facts)


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


def _columns(tokens: Sequence[Token]) -> Iterator[Action]:
    """Yield the columns and constraints between the parentheses of CREATE TABLE."""
    for part in parts(tokens):
        reader = Reader(part)
        if reader.any_of("constraint", *_CONSTRAINTS, "like"):
            yield from _constraint("", Reader(part))
        elif part:
            yield _column("", reader)
