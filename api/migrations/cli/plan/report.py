"""The result of `plan`, as text and JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from typing import Any

from ...databases.backend import TableSize
from ..results import Result
from .last_time import LastTime
from .lock_modes import Lock, LockMode

MEASURED, BY_RULE = "measured", "by rule"
_SHOWN = 120
"""How many characters of a statement a line has."""


@dataclass(frozen=True)
class PlannedStatement:
    """A statement that a pending revision executes."""

    line: int
    kind: str
    table: str
    """The first table that it names; empty if it names none."""
    text: str
    """Without values, or as it is executed with --sql."""
    transaction: int | None
    """The number of its transaction in the revision; None for autocommit."""
    how: str
    """`measured` or `by rule`."""
    locks: Sequence[Lock] = ()
    rewrites: Sequence[str] = ()
    reads: Sequence[str] = ()
    notes: Sequence[str] = ()
    last_time: LastTime | None = None
    times: int = 1
    """How often a loop of the revision executes it."""

    @property
    def tables(self) -> set[str]:
        """The tables that it names, locks, rewrites or reads."""
        locked = {lock.on for lock in self.locks if not lock.is_index}
        return locked.union(self.rewrites, self.reads, [self.table] if self.table else [])

    def as_json(self) -> dict[str, Any]:
        """Return the fields, with the names of the modes."""
        locks = [_lock_as_json(lock) for lock in self.locks]
        return {**asdict(self), "locks": locks, "last_time": _time_as_json(self.last_time)}


@dataclass(frozen=True)
class PlannedRevision:
    """A pending revision."""

    revision: str
    title: str
    """Its id and the first line of its docstring."""
    statements: Sequence[PlannedStatement]
    stopped: str | None = None
    """Why some of its statements are not known."""
    last_time: LastTime | None = None
    """The last time that this revision was applied, if it was."""

    @property
    def transactional(self) -> bool:
        """Whether each of its statements is in a transaction."""
        return all(statement.transaction is not None for statement in self.statements)

    def as_json(self) -> dict[str, Any]:
        """Return the fields."""
        statements = [statement.as_json() for statement in self.statements]
        more = {"transactional": self.transactional, "last_time": _time_as_json(self.last_time)}
        return {**asdict(self), **more, "statements": statements}


@dataclass(frozen=True, kw_only=True)
class PlanReport(Result):
    """What `upgrade` would do."""

    revisions: Sequence[PlannedRevision] = ()
    sizes: Mapping[str, TableSize]
    """Of the tables that exist and are locked, rewritten or read."""
    clone: str | None = None
    """The temporary database in which the revisions ran."""
    why_by_rule: str | None = None
    """Why not everything was measured."""
    leftovers: Sequence[str] = ()

    def lines(self) -> Iterator[str]:
        """Yield the revisions with their statements, and what is locked most."""
        yield self.message
        if self.why_by_rule is not None:
            yield f"by rule, because {self.why_by_rule}"
        for revision in self.revisions:
            yield ""
            yield f"{revision.title}{'' if revision.transactional else ' (not in one transaction)'}"
            if revision.last_time is not None:
                yield f"  it was applied before, in {revision.last_time}"
            yield from chain.from_iterable(map(self._statement, revision.statements))
            if revision.stopped is not None:
                yield f"  the rest is not known: {revision.stopped}"
        if self.revisions:
            yield ""
            yield self.summary
        if self.leftovers:
            yield f"clones are left behind. To fix: {' '.join(map(_drop, self.leftovers))}"

    def as_json(self) -> dict[str, Any]:
        """Return the fields; see docs/plan.md."""
        revisions = [revision.as_json() for revision in self.revisions]
        sizes = {name: asdict(size) for name, size in self.sizes.items()}
        strongest = self._strongest
        return {**super().as_json(), "revisions": revisions, "sizes": sizes} | {
            "strongest": None if strongest is None else _lock_as_json(strongest[2]),
            "summary": self.summary,
        }

    @property
    def summary(self) -> str:
        """The number of statements, and the strongest lock."""
        every = [statement for revision in self.revisions for statement in revision.statements]
        measured = sum(statement.times for statement in every if statement.how == MEASURED)
        total = sum(statement.times for statement in every)
        number = f"{counted(len(self.revisions), 'revision')}, {counted(total, 'statement')}"
        counts = f"{number}: {measured} measured, {total - measured} by rule"
        if self._strongest is None:
            return counts
        revision, statement, lock = self._strongest
        return f"{counts}; the strongest lock, in {revision.revision} line {statement.line}: {self._lock(lock)}"

    @property
    def _strongest(self) -> tuple[PlannedRevision, PlannedStatement, Lock] | None:
        every = [
            (revision, statement, lock)
            for revision in self.revisions
            for statement in revision.statements
            for lock in statement.locks
            if not lock.is_index
        ]

        def rank(one: tuple[PlannedRevision, PlannedStatement, Lock]) -> tuple[int, bool, int]:
            _, statement, lock = one
            size = self.sizes.get(lock.on)
            return lock.mode, lock.on in {*statement.rewrites, *statement.reads}, size.bytes if size else 0

        return max(every, key=rank, default=None)

    def _statement(self, statement: PlannedStatement) -> Iterator[str]:
        text = statement.text if len(statement.text) <= _SHOWN else f"{statement.text[: _SHOWN - 1]}…"
        times = f" ({statement.times:,} times)" if statement.times > 1 else ""
        yield f"  line {statement.line}, {statement.how}{times}: {text}"
        for lock in _worth_a_line(statement.locks):
            yield f"    {self._lock(lock)}{self._rows(statement, lock.on)}"
        if not statement.locks and not statement.notes:
            yield "    locks no existing table"
        where = f"{self._sized(statement.table)}: " if statement.table and not statement.locks else ""
        yield from (f"    {where}{note}" for note in statement.notes)
        if statement.last_time is not None:
            yield f"    last time: {statement.last_time}"

    def _lock(self, lock: Lock) -> str:
        already = "which" if lock.held == lock.mode else f"while {lock.held}"
        held = f", {already} is held since line {lock.since}" if lock.held else ""
        stronger = max(lock.mode, lock.held or lock.mode)
        return f"{lock.mode} on {'index ' if lock.is_index else ''}{self._sized(lock.on)}{held}: {stronger.waiting}"

    def _rows(self, statement: PlannedStatement, table: str) -> str:
        if table in statement.rewrites:
            return "; rewrites the table"
        return "; reads all rows" if table in statement.reads else ""

    def _sized(self, table: str) -> str:
        size = self.sizes.get(table)
        if size is None:
            return table
        rows = "" if size.rows is None else f", about {size.rows:,} rows"
        return f"{table} ({_bytes(size.bytes)}{rows})"


def repeated_as_one(statements: Iterable[PlannedStatement]) -> list[PlannedStatement]:
    """Return one statement for those of the same kind on the same tables from the same line, with their number."""
    first: dict[tuple[object, ...], PlannedStatement] = {}
    for one in statements:
        key = (one.line, one.kind, one.table, frozenset(one.tables), one.how, one.transaction is None)
        first[key] = replace(first[key], times=first[key].times + 1) if key in first else one
    return list(first.values())


def counted(number: int, noun: str) -> str:
    """Return the number with its noun."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _worth_a_line(locks: Sequence[Lock]) -> list[Lock]:
    """Return the locks that let other sessions wait, or else the strongest; an index only beside a weaker lock."""
    tables = [lock for lock in locks if not lock.is_index]
    strongest = max((lock.mode for lock in tables), default=LockMode.ACCESS_SHARE)
    shown = [lock for lock in tables if lock.mode > LockMode.ROW_SHARE] or tables[:1]
    limit = max(strongest, LockMode.ROW_EXCLUSIVE)
    return shown + [lock for lock in locks if lock.is_index and lock.mode > limit]


def _lock_as_json(lock: Lock) -> dict[str, Any]:
    names = {"mode": str(lock.mode), "held": None if lock.held is None else str(lock.held)}
    return {**asdict(lock), **names, "waiting": max(lock.mode, lock.held or lock.mode).waiting}


def _time_as_json(last: LastTime | None) -> dict[str, Any] | None:
    return None if last is None else {**asdict(last), "at": last.at.isoformat()}


def _bytes(number: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if number < 10_000:
            return f"{number:.0f} {unit}"
        number /= 1024
    return f"{number:.0f} TB"


def _drop(name: str) -> str:
    return f'DROP DATABASE "{name}";'
