"""Compares a database with a build, in values alone.

Alembic cannot distinguish "behind" from "ahead"; the parents of revisions in the history table can.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from enum import StrEnum

from ..errors import COMMAND

_SHOWN = 3
"""How many names of tables a message has."""


class SchemaState(StrEnum):
    """The direction from the database to this build."""

    UNKNOWN = "unknown"
    EMPTY = "empty"
    UNVERSIONED = "unversioned"
    BEHIND = "behind"
    AT_HEAD = "at_head"
    AHEAD = "ahead"
    DIVERGED = "diverged"
    DIRTY = "dirty"


UNCLEAR = frozenset({SchemaState.UNVERSIONED, SchemaState.AHEAD, SchemaState.DIVERGED, SchemaState.DIRTY})
"""The states in which a command that runs or checks revisions is refused."""


@dataclass(frozen=True)
class CodeRevisions:
    """The revision graph of this build: each revision with its parents, oldest first."""

    parents: Mapping[str, frozenset[str]]
    heads: frozenset[str]
    idempotent: frozenset[str] = frozenset()
    """The revisions that declare `idempotent = True`: they may run again after an interruption."""
    expands: frozenset[str] = frozenset()
    """The revisions that declare `phase = "expand"`: each release that runs before one also runs after it."""
    contracts: Mapping[str, str] = field(default_factory=dict)
    """The revisions that declare `phase = "contract"`, each with the one that a build must contain to run after it."""

    @property
    def head(self) -> str:
        """The head, or the heads in one name, as the history stores it."""
        return ",".join(sorted(self.heads))[:255]

    def beside(self, revision: str) -> frozenset[str] | None:
        """Return what a build without `revision` must contain to run while it is half applied; None if none may."""
        if revision not in self.idempotent or revision not in self.expands | self.contracts.keys():
            return None
        return frozenset({self.contracts[revision]} if revision in self.contracts else ())

    def closure(self, revisions: frozenset[str], links: Mapping[str, frozenset[str]] | None = None) -> frozenset[str]:
        """Return `revisions` and their ancestors in this build's graph and in further `links`."""
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
        """Return the revisions that an upgrade to the heads would apply to `database`, in order."""
        applied = self.closure(database)
        return tuple(revision for revision in self.parents if revision not in applied)

    def stamped(self, before: frozenset[str], heads: frozenset[str]) -> dict[str, frozenset[str]]:
        """Return the revisions that a stamp from `before` to `heads` declares applied, with their parents."""
        stamped = self.closure(heads) - self.closure(before) or heads
        return {revision: self.parents.get(revision, frozenset()) for revision in stamped}


@dataclass(frozen=True)
class HalfApplied:
    """A revision that committed only a part of its work, as the history table records it."""

    revision: str
    statement: str | None = None
    """The kind of its last statement."""
    invalid_indexes: tuple[str, ...] = ()
    """The quoted names of those that are INVALID now and were not before it."""
    beside: frozenset[str] | None = None
    """What a build without it must contain to run beside it, if it has a mark and may run again; None if none may."""


@dataclass(frozen=True)
class Recorded:
    """A row of the history table, for people; `started_at` in epoch seconds, `seconds` is None until it ended."""

    revision: str
    direction: str
    outcome: str
    instance: str
    started_at: float
    seconds: float | None = None
    attempts: int = 1
    """How many rows it stands for: consecutive retries are shown as one."""


@dataclass(frozen=True)
class Observed:
    """The state of the database at one moment."""

    revisions: frozenset[str] = frozenset()
    half_applied: tuple[HalfApplied, ...] = ()
    # not compared: states with the same revisions are equal
    last_success: float | None = field(default=None, compare=False)
    """When a revision was last applied, undone or stamped, in epoch seconds; None without such a row."""
    last_failure: float | None = field(default=None, compare=False)
    """When an attempt last failed; an interrupted one counts from its start, because its end is unknown."""
    recent: tuple[Recorded, ...] = field(default=(), compare=False)
    """The newest rows of the history, newest first."""
    other_tables: tuple[str, ...] = ()
    """The names of the tables beside the package's own, read only if there is no revision."""
    completed: str | None = None
    """The heads for which the function `after` ran; None if a revision was applied, undone or stamped later."""

    @property
    def ran_before(self) -> bool:
        """Whether the history shows a run that may have made tables: any but those that were rolled back."""
        left = {"running", "half_applied", "interrupted"}
        return self.last_success is not None or any(row.outcome in left for row in self.recent)


@dataclass(frozen=True)
class Schema:
    """The result of the comparison; `unknown` are the revisions that this build does not contain."""

    state: SchemaState = SchemaState.UNKNOWN
    revisions: frozenset[str] = frozenset()
    heads: frozenset[str] = frozenset()
    pending: tuple[str, ...] = ()
    unknown: frozenset[str] = field(default=frozenset())
    half_applied: tuple[HalfApplied, ...] = ()
    other_tables: tuple[str, ...] = ()
    """The tables of a database without a revision, beside the package's own."""
    completed: bool = False
    """Whether the function `after` ran for the heads of this build."""
    contracted: Mapping[str, str] = field(default_factory=dict)
    """The newer contracts after which this build cannot run, each with the revision that the build lacks."""


def compare_with_build(
    observed: Observed,
    code: CodeRevisions,
    lineage: Mapping[str, frozenset[str]],
    contracts: Mapping[str, str] | None = None,
) -> Schema:
    """Compare the database with the build.

    Args:
        observed: the state of the database; there may be several heads.
        code: this build's graph.
        lineage: the parents of other builds' revisions, from the history table.
        contracts: what the contracts of other builds require, from the history table.
    """
    unknown = observed.revisions - code.parents.keys()
    pending = () if unknown else code.pending(observed.revisions)
    # an idempotent revision is applied again if it is the next one; the step of a bootstrap is at the head instead
    applied = code.closure(observed.revisions)
    repeated = {revision for revision in code.idempotent.intersection(pending) if code.parents[revision] <= applied}
    known = code.parents.keys()
    ours = [half for half in observed.half_applied if half.revision in known or not _beside(half, known)]
    dirty = tuple(half for half in ours if half.revision not in repeated)
    state = SchemaState.DIRTY if dirty else _direction(observed, code, lineage, unknown)
    completed = observed.completed == code.head
    newer = code.closure(observed.revisions, lineage) - code.parents.keys() if unknown and contracts else frozenset()
    lacked = {one: needed for one, needed in (contracts or {}).items() if one in newer and needed not in code.parents}
    tables = observed.other_tables
    return Schema(state, observed.revisions, code.heads, pending, unknown, dirty, tables, completed, lacked)


def _beside(half: HalfApplied, known: Set[str]) -> bool:
    return half.beside is not None and half.beside <= known


def _direction(
    observed: Observed, code: CodeRevisions, lineage: Mapping[str, frozenset[str]], unknown: frozenset[str]
) -> SchemaState:
    # not "revisions == heads": a head that another branch depends on has no row of its own
    if not unknown and not code.pending(observed.revisions):
        return SchemaState.AT_HEAD
    if not observed.revisions:
        # a downgrade to base, or an unfinished first revision, may have left tables
        existed = observed.other_tables and not observed.ran_before
        return SchemaState.UNVERSIONED if existed else SchemaState.EMPTY
    if not unknown:
        return SchemaState.BEHIND
    below = code.closure(observed.revisions, lineage)
    return SchemaState.AHEAD if code.heads <= below else SchemaState.DIVERGED


def explain(schema: Schema) -> str:
    """Return one line for people: the result of the comparison, and the remedy."""
    database, heads = _names(schema.revisions), _names(schema.heads)
    match schema.state:
        case SchemaState.AT_HEAD:
            return f"the database is at head ({heads})"
        case SchemaState.EMPTY | SchemaState.BEHIND:
            return f"the database is at {database}, this build's head is {heads}: {len(schema.pending)} pending"
        case SchemaState.UNVERSIONED:
            return (
                f"the database has tables ({_some(schema.other_tables)}) and no revision: it existed before Alembic, "
                f"or the URL names another database. To fix: run '{COMMAND} stamp REV' with the revision that "
                "matches the tables, or set MIGRATION_BASELINE=REV, which stamps it at the next start; or set "
                "MIGRATION_BASELINE=base to run all revisions on these tables; or use an empty database or schema"
            )
        case SchemaState.AHEAD if schema.contracted:
            lacked, contracts = _names(frozenset(schema.contracted.values())), _names(frozenset(schema.contracted))
            return (
                f"the database is ahead: it is at {database}, and this build (head {heads}) cannot run on it, because "
                f"it lacks {lacked}, which {contracts} requires. To fix: deploy a release that contains {lacked}"
            )
        case SchemaState.AHEAD:
            return (
                f"the database is ahead: it is at {database}, which this build (head {heads}) does not know. "
                f"To fix: deploy the release that contains {_names(schema.unknown)}"
            )
        case SchemaState.DIVERGED:
            return (
                f"the database has diverged: it is at {database}, and nothing shows that this build's head {heads} "
                f"is an ancestor of {_names(schema.unknown)}. To fix: deploy the release that contains it, or correct "
                "DATABASE_URL"
            )
        case SchemaState.DIRTY:
            return "; ".join(
                f"revision {half.revision} committed a part of its work and did not finish{repair_advice(half)}"
                for half in schema.half_applied
            )
    return "the database has not been read yet"


RUNS_AGAIN = ". What it committed stays, and the next run runs the revision again, which declares idempotent = True"
"""The end of a message about a revision that may run again after it committed a part of its work."""


def repair_advice(half: HalfApplied) -> str:
    """Return the end of a message about a half-applied revision: its last statement, and the remedy."""
    last = f" (last statement: {half.statement})" if half.statement else ""
    steps = "To fix: correct the schema"
    if half.invalid_indexes:
        steps = f"{invalid_index_advice(half.invalid_indexes)}. Correct the rest of the schema"
    return (
        f"{last}. {steps} by hand, then run '{COMMAND} repair --rerun' (the next upgrade runs the revision again) "
        f"or '{COMMAND} repair --stamp' (the revision counts as applied)"
    )


def invalid_index_advice(invalid_indexes: Sequence[str]) -> str:
    """Return one line about INVALID indexes, with the statements that drop them."""
    names, drops = ", ".join(invalid_indexes), " ".join(f"DROP INDEX CONCURRENTLY {name};" for name in invalid_indexes)
    return f"INVALID {names}: a concurrent build did not finish. To fix: {drops} then build again"


def _some(tables: Sequence[str]) -> str:
    more = f" and {len(tables) - _SHOWN} more" if len(tables) > _SHOWN else ""
    return ", ".join(tables[:_SHOWN]) + more


def _names(revisions: frozenset[str]) -> str:
    return ", ".join(sorted(revisions)) or "base"
