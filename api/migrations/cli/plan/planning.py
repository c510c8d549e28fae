"""Puts together what is known of each statement of the pending revisions: what was measured, or else the rules."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from ..sql.actions import actions
from ..sql.kinds import kind_of
from ..sql.rendering import Statement, normal
from ..sql.tables import Tables
from ..sql.tokens import shown, statements
from .last_time import Key
from .lock_modes import Lock, LockMode
from .recorder import Executed
from .report import BY_RULE, MEASURED, PlannedStatement
from .rules import Effect, changes_rows, effect, handles_rows

_NEVER_REWRITES = {"truncate", "create table"}


@dataclass
class RevisionPlanner:
    """Plans the statements of one revision; `known` are the tables before it, and afterwards those after it."""

    known: Tables
    lock_rules: bool
    """Whether the rules for lock modes are those of this database."""
    full_sql: bool = False
    _created: set[str] = field(default_factory=set)
    _held: dict[int, dict[str, tuple[LockMode, int]]] = field(default_factory=dict)
    """The strongest lock on each table, with its line, by transaction."""

    def by_rule(self, rendered: Sequence[Statement]) -> Iterator[PlannedStatement]:
        """Yield the statements that were rendered without a database."""
        for statement in rendered:
            found = effect(statement, self.known)
            yield self._planned(statement, self._on_existing(found), BY_RULE)
            self._learn(statement)

    def measured(self, executed: Sequence[Executed]) -> Iterator[PlannedStatement]:
        """Yield the statements that were executed in a clone; those in autocommit by rule."""
        for one in executed:
            statement = read(one)
            rule = effect(statement, self.known)
            if one.effect is None:
                note = ["not executed, because it reaches beyond the clone"] if one.skipped else []
                yield self._planned(statement, self._on_existing(rule), BY_RULE, *note)
            else:
                yield self._planned(statement, self._combined(statement, one.effect, rule), MEASURED)
            self._learn(statement)

    def unreached(self, rendered: Sequence[Statement], executed: Sequence[Executed]) -> Iterator[PlannedStatement]:
        """Yield by rule what changes rows and was rendered, but not executed in a clone, where queries find no rows."""
        done = {key_of(read(one)) for one in executed}
        for statement in rendered:
            if changes_rows(statement) and key_of(statement) not in done:
                found = self._on_existing(effect(statement, self.known))
                yield self._planned(statement, found, BY_RULE, "not reached in the clone, which has no rows")

    def _combined(self, statement: Statement, measured: Effect, rule: Effect) -> Effect:
        kinds = {action.kind for action in statement.actions}
        held = self._held.get(statement.transaction or 0, {})
        names = {lock.on for lock in measured.locks}
        # a mode that the transaction holds already does not appear a second time in pg_locks
        again = [replace(lock, on=name) for lock in rule.locks for name in held.keys() - names if _is(name, lock.on)]
        reads = () if handles_rows(statement) else measured.reads
        if kinds & {"add foreign key", "validate constraint"}:  # on empty tables, the check may use an index
            checked = [name for name in sorted(names) for one in rule.reads if _is(name, one)]
            reads = tuple(dict.fromkeys([*reads, *checked]))
        rewrites = () if kinds & _NEVER_REWRITES else measured.rewrites
        return Effect((*measured.locks, *again), rewrites, reads)

    def _on_existing(self, found: Effect) -> Effect:
        """Leave out the tables that the same revision creates: no other session uses them yet."""
        locks = tuple(lock for lock in found.locks if lock.on not in self._created)
        rewrites = tuple(name for name in found.rewrites if name not in self._created)
        reads = tuple(name for name in found.reads if name not in self._created)
        return Effect(locks, rewrites, reads, found.known)

    def _planned(self, statement: Statement, found: Effect, how: str, *notes: str) -> PlannedStatement:
        if how == BY_RULE and not self.lock_rules:
            found, notes = Effect(), (*notes, "what it locks is not known")
        elif not found.known:
            notes = (*notes, f"what {'else ' if found.locks else ''}it locks is not known")
        elif changes_rows(statement):
            notes = (*notes, "how many rows it changes is not known")
        locks = tuple(self._holding(statement, found.locks))
        text = (
            statement.written
            if self.full_sql
            else shown(statement.written or statement.sql, quotes_are_strings=not self.lock_rules)
        )
        fields = (statement.line, *key_of(statement), text, statement.transaction, how)
        return PlannedStatement(*fields, locks, found.rewrites, found.reads, notes)

    def _holding(self, statement: Statement, locks: Sequence[Lock]) -> Iterator[Lock]:
        if statement.transaction is None:
            yield from locks
            return
        held = self._held.setdefault(statement.transaction, {})
        for lock in locks:
            mode, line = held.get(lock.on, (None, None))
            if mode is not None and mode >= lock.mode:
                yield replace(lock, held=mode, since=line)
            else:
                held[lock.on] = lock.mode, statement.line
                yield lock

    def _learn(self, statement: Statement) -> None:
        self.known.learn(statement.actions)
        self._created |= {action.on for action in statement.actions if action.kind == "create table"}


def read(executed: Executed) -> Statement:
    """Return an executed text as a statement, with what it does according to its words."""
    each = list(statements(executed.sql))
    found = [action for tokens in each for action in actions(tokens)]
    sql = "; ".join(map(normal, each))
    return Statement(sql, executed.line, executed.transaction, found, written=executed.sql)


def key_of(statement: Statement) -> Key:
    """Return the kind and the first table of a statement, by which a similar one is found."""
    kind = "; ".join(kind_of(tokens, actions(tokens)) for tokens in statements(statement.sql))
    return kind, next((action.on for action in statement.actions if action.on), "")


def _is(name: str, written: str) -> bool:
    # a search path may lead to another schema
    return name == written or name.endswith(f".{written}")
