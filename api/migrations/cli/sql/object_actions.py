"""What other statements do: those on triggers, views, comments and locks, TRUNCATE, COPY and others."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from .action import Action, facts_of
from .tokens import Reader, joined, parts

Read = Callable[[Reader], Iterator[Action]]


def named(kind: str) -> Read:
    """Return the reader of a statement whose object's name comes first, perhaps after IF EXISTS."""

    def read(reader: Reader) -> Iterator[Action]:
        guards(reader)
        yield Action(kind, reader.name())

    return read


def each_named(kind: str) -> Read:
    """Return the reader of a statement that names several objects: DROP VIEW a, b."""

    def read(reader: Reader) -> Iterator[Action]:
        guards(reader)
        for part in parts(reader.rest):
            yield Action(kind, Reader(part).name())

    return read


def on_table(kind: str) -> Read:
    """Return the reader of a statement that names its table after ON, such as CREATE TRIGGER."""

    def read(reader: Reader) -> Iterator[Action]:
        guards(reader)
        name, after = reader.name(), Reader(reader.after("on"))
        after.take("only")
        yield Action(kind, after.name(), name)

    return read


def guards(reader: Reader) -> None:
    """Go past IF EXISTS, IF NOT EXISTS and ONLY."""
    reader.any_of("if exists", "if not exists")
    reader.take("only")


def alter_index(reader: Reader) -> Iterator[Action]:
    """Yield the change of an index; its text is what is changed."""
    guards(reader)
    yield Action("alter index", "", reader.name(), joined(reader.rest))


def comment(reader: Reader) -> Iterator[Action]:
    """Yield the comment on a table, or on a column as one on its table; on other objects without a table."""
    of = reader.any_of("table", "column", "view", "materialized view", "sequence", "index")
    name = reader.name() if of else ""
    yield Action("comment", name.rpartition(".")[0] if of == "column" else name, of)


def copy(reader: Reader) -> Iterator[Action]:
    """Yield COPY FROM as a write, and COPY TO as a read, of the table."""
    table = reader.name() if reader.rest and reader.rest[0].text != "(" else ""
    yield Action("write" if reader.has("from") and table else "copy to", table)


def lock(reader: Reader) -> Iterator[Action]:
    """Yield each table that is locked; the text is the mode, in capitals."""
    reader.take("table")
    reader.take("only")
    mode = joined(Reader(reader.after("in")).rest).partition(" mode")[0] or "access exclusive"
    for part in parts(reader.until("in", "nowait")):
        yield Action("lock", Reader(part).name(), text=mode.upper())


def refresh(reader: Reader) -> Iterator[Action]:
    """Yield the materialized view that is refreshed."""
    facts = facts_of(concurrently=reader.take("concurrently"))
    yield Action("refresh", reader.name(), facts=facts)


def select(reader: Reader) -> Iterator[Action]:
    """Yield the first table that is read; the text says that its rows are locked."""
    after = Reader(reader.after("from"))
    table = after.name() if after.rest and after.rest[0].kind in {"word", "quoted"} else ""
    is_call = bool(after.rest) and after.rest[0].text == "("
    locks = any(reader.has(f"for {how}") for how in ("update", "no key update", "share", "key share"))
    yield Action("select", "" if is_call else table, text="for update" if locks else "")


def truncate(reader: Reader) -> Iterator[Action]:
    """Yield each table that is emptied."""
    reader.take("table")
    reader.take("only")
    for part in parts(reader.until("restart", "continue", "cascade", "restrict")):
        yield Action("truncate", Reader(part).name())


def vacuum(reader: Reader) -> Iterator[Action]:
    """Yield each table that is vacuumed; without a name, one action for all tables."""
    facts = facts_of(full=reader.has("full"))
    if reader.rest and reader.rest[0].text == "(":
        reader.group()
    while reader.any_of("full", "freeze", "verbose", "analyze"):
        pass
    yield from (Action("vacuum", Reader(part).name(), facts=facts) for part in parts(reader.rest))


def view(reader: Reader) -> Iterator[Action]:
    """Yield the new view."""
    reader.take("if not exists")
    yield Action("create view", reader.name())


def replaced_view(reader: Reader) -> Iterator[Action]:
    """Yield the view that is replaced if it exists."""
    yield Action("replace view", reader.name())


STATEMENTS: dict[str, Read] = {
    "alter index": alter_index,
    "alter policy": on_table("alter policy"),
    "alter sequence": named("alter sequence"),
    "alter view": named("alter view"),
    "analyze": each_named("analyze"),
    "cluster": named("cluster"),
    "comment on": comment,
    "copy": copy,
    "create constraint trigger": on_table("create trigger"),
    "create materialized view": view,
    "create or replace trigger": on_table("create trigger"),
    "create or replace view": replaced_view,
    "create policy": on_table("create policy"),
    "create statistics": lambda reader: iter([Action("create statistics", Reader(reader.after("from")).name())]),
    "create trigger": on_table("create trigger"),
    "create view": view,
    "drop materialized view": each_named("drop view"),
    "drop policy": on_table("drop policy"),
    "drop sequence": each_named("drop sequence"),
    "drop trigger": on_table("drop trigger"),
    "drop view": each_named("drop view"),
    "lock": lock,
    "refresh materialized view": refresh,
    "select": select,
    "truncate": truncate,
    "vacuum": vacuum,
}
"""The readers, by the words that a statement begins with."""
