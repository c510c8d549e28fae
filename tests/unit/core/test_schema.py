"""The database's revisions compared with a build's, and the line that explains the result."""

from collections.abc import Mapping

import pytest

from api.migrations.core.schema import (
    CodeRevisions,
    HalfApplied,
    Observed,
    Recorded,
    Schema,
    SchemaState,
    compare_with_build,
    explain,
)


def code(**parents: str) -> CodeRevisions:
    """Return a graph from `name="parents, separated by blanks"`, oldest first."""
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
def test_a_database_is_compared_with_a_build(
    graph: CodeRevisions, database: str, history: Mapping[str, str], state: SchemaState, pending: str
) -> None:
    """The sets of revisions, and the history for revisions that the build does not know, decide the state."""
    lineage = {name: frozenset(below.split()) for name, below in history.items()}
    schema = compare_with_build(Observed(frozenset(database.split())), graph, lineage)
    assert (schema.state, schema.pending) == (state, tuple(pending.split()))
    assert schema.unknown == frozenset(database.split()) - graph.parents.keys()


@pytest.mark.parametrize(
    ("revisions", "success", "outcome", "state"),
    [
        ("", None, None, SchemaState.UNVERSIONED),
        ("", None, "failed", SchemaState.UNVERSIONED),
        ("", None, "backed_up", SchemaState.UNVERSIONED),
        ("", None, "running", SchemaState.EMPTY),
        ("", None, "interrupted", SchemaState.EMPTY),
        ("", 1.0, "applied", SchemaState.EMPTY),
        ("a", None, None, SchemaState.BEHIND),
    ],
)
def test_tables_without_a_revision_make_a_database_unversioned(
    revisions: str, success: float | None, outcome: str | None, state: SchemaState
) -> None:
    """Tables without a revision make it unversioned, unless the history shows a run that may have made them."""
    recent = (Recorded("a", "upgrade", outcome, "one", 0.0),) if outcome else ()
    observed = Observed(
        frozenset(revisions.split()), last_success=success, recent=recent, other_tables=("t1", "t2", "t3", "t4")
    )
    schema = compare_with_build(observed, LINE, {})
    assert schema.state is state
    assert ("(t1, t2, t3 and 1 more)" in explain(schema)) is (state is SchemaState.UNVERSIONED)


@pytest.mark.parametrize("database", ["", "a", "c", "d"])
def test_a_half_applied_revision_makes_every_schema_dirty(database: str) -> None:
    """A half-applied revision makes the schema dirty at base, behind, at head and ahead."""
    schema = compare_with_build(
        Observed(frozenset(database.split()), (HalfApplied("b"),)), LINE, {"d": frozenset({"c"})}
    )
    assert (schema.state, schema.half_applied) == (SchemaState.DIRTY, (HalfApplied("b"),))


@pytest.mark.parametrize(
    ("graph", "needs", "state"),
    [
        (LINE, frozenset(), SchemaState.AT_HEAD),
        (LINE, frozenset("b"), SchemaState.AT_HEAD),
        (LINE, frozenset("x"), SchemaState.DIRTY),
        (LINE, None, SchemaState.DIRTY),
        (code(a="", b="a", c="b", d="c"), frozenset(), SchemaState.DIRTY),
    ],
    ids=["an expand", "a contract", "a contract that it cannot run after", "no mark", "its own revision"],
)
def test_a_half_applied_revision_of_a_newer_build_concerns_an_older_one_by_its_mark(
    graph: CodeRevisions, needs: frozenset[str] | None, state: SchemaState
) -> None:
    """A build that has what the newer revision requires runs beside it, also while only a part of it is committed."""
    observed = Observed(frozenset("c"), (HalfApplied("d", beside=needs),))
    assert compare_with_build(observed, graph, {}).state is state


def test_a_pending_idempotent_half_applied_revision_is_run_again() -> None:
    """A half-applied revision that is pending and declared idempotent leaves the schema merely behind."""
    graph = CodeRevisions(LINE.parents, LINE.heads, frozenset({"b"}))
    assert compare_with_build(Observed(frozenset("a"), (HalfApplied("b"),)), graph, {}).state is SchemaState.BEHIND


def test_an_idempotent_revision_that_is_not_pending_stays_dirty() -> None:
    """A half-applied idempotent revision that is not pending, as after a stopped downgrade, keeps the schema dirty."""
    graph = CodeRevisions(LINE.parents, LINE.heads, frozenset({"b"}))
    assert compare_with_build(Observed(frozenset("b"), (HalfApplied("b"),)), graph, {}).state is SchemaState.DIRTY


def test_an_idempotent_head_that_is_not_the_next_revision_stays_dirty() -> None:
    """An interrupted bootstrap is half applied at the head: running the first revision again would not finish it."""
    graph = CodeRevisions(LINE.parents, LINE.heads, frozenset({"c"}))
    assert compare_with_build(Observed(half_applied=(HalfApplied("c"),)), graph, {}).state is SchemaState.DIRTY


def test_one_idempotent_revision_does_not_excuse_another() -> None:
    """Of two half-applied revisions the one that is not declared idempotent keeps the schema dirty."""
    graph = CodeRevisions(LINE.parents, LINE.heads, frozenset({"b"}))
    assert compare_with_build(
        Observed(frozenset("a"), (HalfApplied("b"), HalfApplied("c"))), graph, {}
    ).half_applied == (HalfApplied("c"),)


@pytest.mark.parametrize(("database", "lineage"), [("a", {}), ("d", {"d": frozenset({"c"})}), ("zz", {})])
def test_the_line_names_both_revisions(database: str, lineage: Mapping[str, frozenset[str]]) -> None:
    """The line names the database's revision and the build's head if the schema is behind, ahead or diverged."""
    words = (
        explain(compare_with_build(Observed(frozenset({database})), LINE, lineage))
        .replace(",", " ")
        .replace(":", " ")
        .split()
    )
    assert {database, "c"} <= {word.strip("()") for word in words}


def test_an_empty_database_is_called_base() -> None:
    """The line for an empty database says that it is at base, as Alembic does."""
    assert "is at base" in explain(compare_with_build(Observed(), LINE, {}))


def test_the_line_of_a_dirty_schema_names_both_repairs() -> None:
    """The line for a half-applied revision names it, its last statement, the indexes to drop and both repairs."""
    half = HalfApplied("b", "CREATE INDEX CONCURRENTLY", ("i", '"odd Name"'))
    line = explain(compare_with_build(Observed(frozenset("a"), (half,)), LINE, {}))
    assert "revision b" in line
    assert "last statement: CREATE INDEX CONCURRENTLY" in line
    assert 'DROP INDEX CONCURRENTLY i; DROP INDEX CONCURRENTLY "odd Name";' in line
    assert "--rerun" in line
    assert "--stamp" in line


def test_the_line_of_a_schema_that_was_never_read_says_so() -> None:
    """The line of a schema before its first read says that the database has not been read yet."""
    assert explain(Schema()) == "the database has not been read yet"
