"""Where the database stands against a build: every direction, and what the line for people says."""

from collections.abc import Mapping

import pytest

from api.migrations.core.schema import (
    CodeRevisions,
    HalfApplied,
    Observed,
    Schema,
    SchemaState,
    compare_with_build,
    explain,
)


def code(**parents: str) -> CodeRevisions:
    """A graph from `name="parents, separated by blanks"`, oldest first."""
    graph = {name: frozenset(below.split()) for name, below in parents.items()}
    return CodeRevisions(graph, frozenset(graph) - frozenset().union(*graph.values()))


LINE = code(a="", b="a", c="b")
TWO_HEADS = code(a="", left="a", right="a")
# Alembic's depends_on: the head `extra` needs `base2`, whose own row the version table no longer has
DEPENDS = CodeRevisions(
    {"a": frozenset(), "base2": frozenset(), "extra": frozenset({"a", "base2"})}, frozenset({"base2", "extra"})
)

TABLE = [
    ("nothing there", LINE, "", {}, SchemaState.EMPTY, "a b c"),
    ("at the first", LINE, "a", {}, SchemaState.BEHIND, "b c"),
    ("at the last but one", LINE, "b", {}, SchemaState.BEHIND, "c"),
    ("at the head", LINE, "c", {}, SchemaState.AT_HEAD, ""),
    ("newer by one", LINE, "d", {"d": "c"}, SchemaState.AHEAD, ""),
    ("newer by three", LINE, "f", {"f": "e", "e": "d", "d": "c"}, SchemaState.AHEAD, ""),
    ("newer, merged", LINE, "m", {"m": "c x", "x": "b"}, SchemaState.AHEAD, ""),
    ("a known and a newer head", LINE, "c x", {}, SchemaState.AHEAD, ""),
    ("unknown, without a history", LINE, "d", {}, SchemaState.DIVERGED, ""),
    ("unknown, with a gap in the history", LINE, "f", {"f": "e"}, SchemaState.DIVERGED, ""),
    ("branched off below our head", LINE, "x", {"x": "b"}, SchemaState.DIVERGED, ""),
    ("another application's", LINE, "zz", {"zz": "yy", "yy": ""}, SchemaState.DIVERGED, ""),
    ("one of two heads", TWO_HEADS, "left", {}, SchemaState.BEHIND, "right"),
    ("both heads", TWO_HEADS, "left right", {}, SchemaState.AT_HEAD, ""),
    ("newer than one of two heads", TWO_HEADS, "d", {"d": "left"}, SchemaState.DIVERGED, ""),
    ("newer than both heads", TWO_HEADS, "d", {"d": "left right"}, SchemaState.AHEAD, ""),
    ("a head that another depends on", DEPENDS, "extra", {}, SchemaState.AT_HEAD, ""),
    ("only what is depended on", DEPENDS, "base2", {}, SchemaState.BEHIND, "a extra"),
    ("a build without revisions", code(), "", {}, SchemaState.AT_HEAD, ""),
]


@pytest.mark.parametrize(
    ("graph", "database", "history", "state", "pending"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE]
)
def test_the_direction(
    graph: CodeRevisions, database: str, history: Mapping[str, str], state: SchemaState, pending: str
) -> None:
    """The sets of revisions decide, and the history proves what this build cannot know."""
    lineage = {name: frozenset(below.split()) for name, below in history.items()}
    schema = compare_with_build(Observed(frozenset(database.split())), graph, lineage)
    assert (schema.state, schema.pending) == (state, tuple(pending.split()))
    assert schema.unknown == frozenset(database.split()) - graph.parents.keys()


@pytest.mark.parametrize("database", ["", "a", "c", "d"])
def test_half_applied_is_dirty_wherever_the_version_stands(database: str) -> None:
    """A part of a revision that was committed outweighs every direction."""
    schema = compare_with_build(
        Observed(frozenset(database.split()), (HalfApplied("b"),)), LINE, {"d": frozenset({"c"})}
    )
    assert (schema.state, schema.half_applied) == (SchemaState.DIRTY, (HalfApplied("b"),))


def test_a_pending_idempotent_revision_is_simply_run_again() -> None:
    """It says of itself that an interruption does no harm."""
    graph = CodeRevisions(LINE.parents, LINE.heads, frozenset({"b"}))
    assert compare_with_build(Observed(frozenset("a"), (HalfApplied("b"),)), graph, {}).state is SchemaState.BEHIND


def test_an_idempotent_revision_that_is_not_pending_stays_dirty() -> None:
    """A downgrade stopped in the middle of it: nothing would run it again."""
    graph = CodeRevisions(LINE.parents, LINE.heads, frozenset({"b"}))
    assert compare_with_build(Observed(frozenset("b"), (HalfApplied("b"),)), graph, {}).state is SchemaState.DIRTY


def test_one_idempotent_revision_does_not_excuse_another() -> None:
    """Only the one that declares it is left out."""
    graph = CodeRevisions(LINE.parents, LINE.heads, frozenset({"b"}))
    assert compare_with_build(
        Observed(frozenset("a"), (HalfApplied("b"), HalfApplied("c"))), graph, {}
    ).half_applied == (HalfApplied("c"),)


@pytest.mark.parametrize(("database", "lineage"), [("a", {}), ("d", {"d": frozenset({"c"})}), ("zz", {})])
def test_the_line_names_both_revisions(database: str, lineage: Mapping[str, frozenset[str]]) -> None:
    """Behind, ahead or diverged: the database's revision and the build's head are both there."""
    words = (
        explain(compare_with_build(Observed(frozenset({database})), LINE, lineage))
        .replace(",", " ")
        .replace(":", " ")
        .split()
    )
    assert {database, "c"} <= {word.strip("()") for word in words}


def test_an_empty_database_is_called_base() -> None:
    """Alembic's word for it."""
    assert "is at base" in explain(compare_with_build(Observed(), LINE, {}))


def test_dirty_names_the_revision_and_both_ways_out() -> None:
    """Whoever reads it at night has to decide between two commands."""
    half = HalfApplied("b", "CREATE INDEX CONCURRENTLY", ("i", '"odd Name"'))
    line = explain(compare_with_build(Observed(frozenset("a"), (half,)), LINE, {}))
    assert "revision b" in line
    assert "last statement: CREATE INDEX CONCURRENTLY" in line
    assert 'DROP INDEX CONCURRENTLY i; DROP INDEX CONCURRENTLY "odd Name";' in line
    assert "--rerun" in line
    assert "--stamp" in line


def test_what_was_never_read_says_so() -> None:
    """The status before the first look."""
    assert explain(Schema()) == "the database has not been read yet"
