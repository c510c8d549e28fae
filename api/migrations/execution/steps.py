"""What surrounds each revision: the attempt before it, the history row with it, the mark for a commit inside it.

Alembic takes the steps of a run from an iterator, one at a time and outside the step's transaction. A generator
around that iterator is therefore the place "before" and "after" a revision, and `on_version_apply` the place
inside its transaction, after the version row has changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, NoReturn, Protocol

import sqlalchemy as sa
from alembic.runtime.migration import MigrationContext, MigrationInfo, RevisionStep, StampStep

from ..core.protocols import ProgressListener
from ..core.schema import CodeRevisions, HalfApplied
from ..errors import DirectConnectionNeeded
from .history_table import Attempt, History, Outcome, RunAuthor
from .invalid_indexes import drop_index, invalid_indexes
from .statements import atomic, commits_by_itself, kind, only_reads
from .transaction_watch import TransactionWatch


class MigrationLock(Protocol):
    """The lock, as the session that holds it sees it from inside the work."""

    transaction_scoped: bool
    """Whether one transaction carries the lock and all revisions, so that a failure takes everything back."""
    transactional_ddl: bool
    """Whether DDL can be rolled back. MySQL commits before and after each such statement."""

    def check_hold(self, connection: sa.Connection) -> None:
        """Raise `HoldLost` unless this very session holds the lock."""

    def check_constraints(self, connection: sa.Connection) -> None:
        """Check now what would be checked at COMMIT, where that comes after other revisions."""

    def set_limits(self, connection: sa.Connection, revision: str) -> None:
        """Give the session the limits of the revision that comes next."""

    def roll_back(self, connection: sa.Connection) -> bool:
        """Roll back what a failed revision left open; returns whether the lock is held, so that it may be recorded."""

    def commit_record(self, connection: sa.Connection) -> None:
        """Commit what was written after `roll_back`."""


Step = RevisionStep | StampStep
Plan = Callable[[Any, MigrationContext | None], Iterable[Step]]


class Steps:
    """One run's steps on one connection."""

    def __init__(
        self,
        connection: sa.Connection,
        history: History,
        author: RunAuthor,
        code: CodeRevisions,
        listener: ProgressListener,
        hold: MigrationLock,
        *,
        drop_invalid: bool = False,
        fence: Callable[[], None] = lambda: None,
    ) -> None:
        self.connection = connection
        self.applied: list[str] = []
        self.current: str | None = None
        """The revision being applied, or the one that failed."""
        self._history = history
        self._author = author
        self._code = code
        self._report = listener
        self._hold = hold
        self._fence = fence
        self._drop_invalid = drop_invalid
        self._attempt: Attempt | None = None
        self._refused = False
        self._watch = TransactionWatch(
            connection, transaction_scoped=hold.transaction_scoped, transactional_ddl=hold.transactional_ddl
        )

    @property
    def transactional_ddl(self) -> bool:
        """Whether DDL can be rolled back."""
        return self._hold.transactional_ddl

    @property
    def all_in_one(self) -> bool:
        """Whether one transaction carries all the steps."""
        return self._hold.transaction_scoped

    @property
    def under_way(self) -> str | None:
        """The revision whose attempt is recorded and has not ended."""
        return self.current if self._attempt is not None else None

    @property
    def half_applied(self) -> bool:
        """Whether the open attempt has committed a part of its work."""
        return self._attempt is not None and self._attempt.half

    def left_behind(self) -> HalfApplied:
        """What is known of the half-applied attempt, for the message."""
        with self._aside() as attempt:
            self.connection.rollback()
            left = invalid_indexes(self.connection) - attempt.invalid_before
            return HalfApplied(attempt.revision, attempt.statement, tuple(sorted(left)))

    def surround(self, plan: Plan) -> Plan:
        """`plan`, with an attempt recorded before each step and progress reported after it."""

        def steps(heads: Any, context: MigrationContext | None) -> Iterator[Step]:
            todo = list(plan(heads, context))
            if self._hold.transaction_scoped and context is not None:
                # on the context itself, because a helper of the revision may open the block
                setattr(context, "autocommit_block", self._refuse_block)  # noqa: B010
            infos = [step.info for step in todo]
            if any(not info.is_stamp for info in infos):
                self._begin_run(infos)
            for step, info in zip(todo, infos, strict=True):
                self._before(info)
                yield self._checked(step)
                self._after(info)
            if self.applied:
                self._report_invalid()

        return steps

    def on_version_apply(
        self, *, ctx: MigrationContext, step: MigrationInfo, heads: set[str], run_args: dict[str, Any]
    ) -> None:
        """In the step's transaction: raising here rolls the revision back."""
        self._check_hold()
        self._hold.check_constraints(self.connection)
        if step.is_stamp:
            self._history.stamped(self.connection, self._author, self._declared(step, frozenset(heads)))
        elif self._attempt is not None:
            self._attempt.outcome = Outcome.APPLIED
            self._history.mark(self.connection, self._attempt)

    def record_failure(self, error: str, error_class: str, outcome: Outcome) -> None:
        """Write down how the open attempt ended; the revision has been rolled back."""
        attempt, self._attempt = self._attempt, None
        if self._hold.transaction_scoped:
            # what went before it was in the same transaction
            self.applied.clear()
        if attempt is None or not self._hold.roll_back(self.connection):
            # who has the lock now makes an attempt of his own, and writes that one down
            return
        self._history.create(self.connection)
        attempt.error_class = error_class
        # not by its outcome: COMMIT may have failed after that was "applied"
        attempt.outcome = Outcome.HALF_APPLIED if attempt.half else outcome
        if not self._history.mark(self.connection, attempt, error):
            # one transaction carried everything, and took the attempt with it
            self._history.begin(self.connection, self._author, attempt)
            self._history.mark(self.connection, attempt, error)
        self._hold.commit_record(self.connection)

    def _begin_run(self, infos: list[MigrationInfo]) -> None:
        verb = "Applied" if infos[0].is_upgrade else "Undid"
        # first, because a server that is read-only refuses this one: an instance that is sent away announces no run
        self._history.prepare(self.connection, self._code.idempotent)
        self._report.planned(tuple(_revision(info) for info in infos), verb)
        self._report_invalid()
        sa.event.listen(self.connection, "commit", self._on_commit)
        sa.event.listen(self.connection, "rollback", self._on_rollback)
        sa.event.listen(self.connection, "before_cursor_execute", self._on_statement)
        if not self._hold.transactional_ddl:
            sa.event.listen(self.connection, "before_cursor_execute", self._before_ddl)
            sa.event.listen(self.connection, "after_cursor_execute", self._after_ddl)

    def _before(self, info: MigrationInfo) -> None:
        if info.is_stamp:
            self._history.create(self.connection)
            self.connection.commit()
            return
        self._check_hold()
        self.current = _revision(info)
        attempt = Attempt(
            self.current,
            frozenset(info.down_revision_ids),
            "upgrade" if info.is_upgrade else "downgrade",
            self._invalid_before(self.current),
        )
        self._hold.set_limits(self.connection, self.current)
        self._history.begin(self.connection, self._author, attempt)
        self._attempt = attempt
        self._watch.begin()
        self._report.started(self.current)

    def _after(self, info: MigrationInfo) -> None:
        revision = _revision(info)
        self._attempt = None
        self.current = None
        self.applied.append(revision)
        if not info.is_stamp:
            self._report.finished(revision)

    def _checked(self, step: Step) -> Step:
        # before the version row changes: outside a transaction that would stay
        migrate = step.migration_fn

        @wraps(migrate)  # Alembic's log calls the step by its name
        def checked(**arguments: Any) -> None:
            migrate(**arguments)
            if self._refused:
                self._refuse_block()  # the revision has swallowed that
            if self._attempt is not None:
                # whether it was COMMIT or ROLLBACK is not known, so a part may be there
                self._attempt.half = self._attempt.half or self._watch.ended_unseen
                self._watch.check()

        step.migration_fn = checked
        return step

    def _refuse_block(self) -> NoReturn:
        self._refused = True
        raise DirectConnectionNeeded.for_block(str(self.current))

    def _on_commit(self, connection: sa.Connection) -> None:
        # Before the version row has changed this is a commit in the middle of a revision. The mark goes into
        # the transaction that is being committed, so that a crash one instruction later finds it.
        if self._attempt is None or self._hold.transaction_scoped:  # behind a pooler only the end of the run commits
            return
        if self._attempt.outcome is Outcome.RUNNING:
            with self._aside() as attempt:
                attempt.outcome, attempt.half = Outcome.HALF_APPLIED, True
                self._history.mark(connection, attempt)
        self._watch.committed()

    def _on_rollback(self, _connection: sa.Connection) -> None:
        if self._attempt is not None:
            self._watch.rolled_back()

    def _on_statement(self, connection: sa.Connection, _cursor: Any, statement: str, *_: Any) -> None:
        if self._attempt is None:
            return
        self._attempt.statement = kind(statement)
        self._watch.executes(statement)
        if self.half_applied and self._watch.in_block:
            # outside a transaction it stays whatever happens next, so it is written down before
            with self._aside() as attempt:
                self._history.mark(connection, attempt)

    def _before_ddl(self, connection: sa.Connection, _cursor: Any, statement: str, *_: Any) -> None:
        # The statement commits what is open before it begins, the mark with it. Whoever dies in it leaves nobody who
        # knows whether it was carried out.
        if self._attempt is None:
            return
        ddl = commits_by_itself(statement)
        if only_reads(statement) and not ddl:
            return
        if ddl:
            with self._aside() as attempt:
                attempt.half = attempt.half or attempt.wrote or not atomic(statement)
                attempt.outcome = Outcome.HALF_APPLIED
                self._history.mark(connection, attempt)
        self._attempt.wrote = True

    def _after_ddl(self, _connection: sa.Connection, _cursor: Any, statement: str, *_: Any) -> None:
        if self._attempt is not None and commits_by_itself(statement):
            self._attempt.half = True

    def _check_hold(self) -> None:
        self._fence()
        self._hold.check_hold(self.connection)

    @contextmanager
    def _aside(self) -> Iterator[Attempt]:
        # what is executed meanwhile is not the revision's
        attempt, self._attempt = self._attempt, None
        assert attempt is not None
        try:
            yield attempt
        finally:
            self._attempt = attempt

    def _invalid_before(self, revision: str) -> frozenset[str]:
        now = invalid_indexes(self.connection)
        before = self._history.unfinished(self.connection, revision)
        if before is None:
            return now
        for name in now - before if self._drop_invalid else ():
            drop_index(self.connection, name)
            self._report.dropped(name)
        return before

    def _report_invalid(self) -> None:
        self._report.invalid(tuple(sorted(invalid_indexes(self.connection))))
        self.connection.commit()

    def _declared(self, step: MigrationInfo, heads: frozenset[str]) -> dict[str, frozenset[str]]:
        before = self._code.closure(frozenset(step.source_revision_ids))
        declared = self._code.closure(heads) - before or heads
        return {revision: self._code.parents.get(revision, frozenset()) for revision in declared}


def _revision(info: MigrationInfo) -> str:
    return ",".join(info.up_revision_ids or info.down_revision_ids)
