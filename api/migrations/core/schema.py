"""Where a database stands, seen from one build: a pure decision with a direction.

Alembic alone cannot tell "behind" from "ahead": both are "Can't locate revision" or "not at head".
What the history table knows about parents of revisions decides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum


class SchemaState(StrEnum):
    """The direction from the database to this build."""

    UNKNOWN = "unknown"
    EMPTY = "empty"
    BEHIND = "behind"
    AT_HEAD = "at_head"
    AHEAD = "ahead"
    DIVERGED = "diverged"
    DIRTY = "dirty"


@dataclass(frozen=True)
class CodeRevisions:
    """The revision graph of this build: each revision with its parents, oldest first."""

    parents: Mapping[str, frozenset[str]]
    heads: frozenset[str]
    idempotent: frozenset[str] = frozenset()
    """Revisions that declare `idempotent = True`: running them again after an interruption is safe."""

    def closure(self, revisions: frozenset[str], links: Mapping[str, frozenset[str]] | None = None) -> frozenset[str]:
        """`revisions` and everything below them, through this build's graph and any further `links`."""
        seen: set[str] = set()
        todo = list(revisions)
        while todo:
            revision = todo.pop()
            if revision not in seen:
                seen.add(revision)
                todo.extend(self.parents.get(revision, frozenset()))
                todo.extend((links or {}).get(revision, frozenset()))
        return frozenset(seen)

    def pending(self, database: frozenset[str]) -> tuple[str, ...]:
        """What an upgrade to the heads would apply to `database`, in order."""
        applied = self.closure(database)
        return tuple(revision for revision in self.parents if revision not in applied)


@dataclass(frozen=True)
class HalfApplied:
    """A revision that committed a part of its work and not the rest, as the history table records it."""

    revision: str
    statement: str | None = None
    """The kind of its last statement."""
    invalid_indexes: tuple[str, ...] = ()
    """Those that are INVALID now and were not before it, by their quoted names."""


@dataclass(frozen=True)
class Recorded:
    """A row of the history table, for people; `started_at` in epoch seconds, `seconds` is None until it ended."""

    revision: str
    direction: str
    outcome: str
    instance: str
    started_at: float
    seconds: float | None = None


@dataclass(frozen=True)
class Observed:
    """What one look at the database found."""

    revisions: frozenset[str] = frozenset()
    half_applied: tuple[HalfApplied, ...] = ()
    # when is not what: two looks that found the same are equal
    last_success: float | None = field(default=None, compare=False)
    """When a revision was last applied, undone or stamped, in epoch seconds; None where the history has no such row."""
    last_failure: float | None = field(default=None, compare=False)
    """When an attempt last failed; for one that was interrupted, when it began, for nobody knows when it ended."""
    recent: tuple[Recorded, ...] = field(default=(), compare=False)
    """The newest rows of the history, newest first."""


@dataclass(frozen=True)
class Schema:
    """The decision: a state, what is pending, and which revisions this build does not know."""

    state: SchemaState = SchemaState.UNKNOWN
    revisions: frozenset[str] = frozenset()
    heads: frozenset[str] = frozenset()
    pending: tuple[str, ...] = ()
    unknown: frozenset[str] = field(default=frozenset())
    half_applied: tuple[HalfApplied, ...] = ()


def compare_with_build(observed: Observed, code: CodeRevisions, lineage: Mapping[str, frozenset[str]]) -> Schema:
    """Compare the database with the build.

    Args:
        observed: the look at the database; sets are compared, because several heads are legal.
        code: this build's graph.
        lineage: parents of revisions as the history table recorded them, for revisions of other builds.
    """
    unknown = observed.revisions - code.parents.keys()
    pending = () if unknown else code.pending(observed.revisions)
    # an idempotent revision that is still to be applied is simply applied again
    dirty = tuple(h for h in observed.half_applied if not (h.revision in code.idempotent and h.revision in pending))
    state = SchemaState.DIRTY if dirty else _direction(observed, code, lineage, unknown)
    return Schema(state, observed.revisions, code.heads, pending, unknown, dirty)


def _direction(
    observed: Observed, code: CodeRevisions, lineage: Mapping[str, frozenset[str]], unknown: frozenset[str]
) -> SchemaState:
    # not "revisions == heads": a head that another branch depends on has no row of its own
    if not unknown and not code.pending(observed.revisions):
        return SchemaState.AT_HEAD
    if not observed.revisions:
        return SchemaState.EMPTY
    if not unknown:
        return SchemaState.BEHIND
    below = code.closure(observed.revisions, lineage)
    return SchemaState.AHEAD if code.heads <= below else SchemaState.DIVERGED


def explain(schema: Schema) -> str:
    """One line for people: where the database stands against this build, and what to do about it."""
    database, heads = _names(schema.revisions), _names(schema.heads)
    match schema.state:
        case SchemaState.AT_HEAD:
            return f"the database is at head ({heads})"
        case SchemaState.EMPTY | SchemaState.BEHIND:
            return f"the database is at {database}, this build's head is {heads}: {len(schema.pending)} pending"
        case SchemaState.AHEAD:
            return (
                f"the database is ahead: it is at {database}, which this build (head {heads}) does not know; "
                f"deploy the release that contains {_names(schema.unknown)}"
            )
        case SchemaState.DIVERGED:
            return (
                f"the database has diverged: it is at {database}, and nothing shows that this build's head {heads} "
                f"is an ancestor of {_names(schema.unknown)}; deploy the release that has it, or check DATABASE_URL"
            )
        case SchemaState.DIRTY:
            return "; ".join(
                f"revision {half.revision} committed a part of its work and did not finish{repair_advice(half)}"
                for half in schema.half_applied
            )
    return "the database has not been read yet"


def repair_advice(half: HalfApplied) -> str:
    """The rest of the line about a half-applied revision: what is known of it, and the commands to go on."""
    last = f" (last statement: {half.statement})" if half.statement else ""
    invalid = f"; {invalid_index_advice(half.invalid_indexes)}" if half.invalid_indexes else ""
    return (
        f"{last}{invalid}; look at what is there, put it in order by hand, then './migrate.sh repair --rerun' "
        "(it runs again at the next upgrade) or './migrate.sh repair --stamp' (declares it applied)"
    )


def invalid_index_advice(invalid_indexes: Sequence[str]) -> str:
    """One line about INVALID indexes, with the statements that remove them."""
    drops = " ".join(f"DROP INDEX CONCURRENTLY {name};" for name in invalid_indexes)
    return f"INVALID {', '.join(invalid_indexes)}: a concurrent build did not finish; {drops} and build again"


def _names(revisions: frozenset[str]) -> str:
    return ", ".join(sorted(revisions)) or "base"
