"""What surrounds each revision: the attempt before it, the history row with it, the mark for a commit inside it.

Alembic takes the steps of a run from an iterator, one at a time and outside the step's transaction. A generator
around that iterator is therefore the place "before" and "after" a revision, and `on_version_apply` the place
inside its transaction, after the version row has changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import sqlalchemy as sa
from alembic.runtime.migration import MigrationContext, MigrationInfo, RevisionStep, StampStep

from .history import Author, History, Outcome
from .ports import Report
from .schema import CodeRevisions


class Hold(Protocol):
    """The lock, as the session that holds it sees it from inside the work."""

    retryable: bool
    """Whether the lock is still held after a revision was rolled back, so that it may be tried again."""

    def check_hold(self, connection: sa.Connection) -> None:
        """Raise `HoldLost` unless this very session holds the lock."""

    def next_revision(self, connection: sa.Connection) -> None:
        """A revision is committed; the next one asks for its table locks as briefly as the first did."""

    def abandon(self, connection: sa.Connection) -> None:
        """Roll back what a failed revision left open."""


Step = RevisionStep | StampStep
Plan = Callable[[Any, MigrationContext | None], Iterable[Step]]


@dataclass
class _Attempt:
    id: int
    revision: str
    parents: frozenset[str]
    direction: str
    outcome: Outcome = Outcome.RUNNING


class Steps:
    """One run's steps on one connection."""

    def __init__(
        self,
        connection: sa.Connection,
        history: History,
        author: Author,
        code: CodeRevisions,
        report: Report,
        hold: Hold,
    ) -> None:
        self.connection = connection
        self.applied: list[str] = []
        self.current: str | None = None
        """The revision being applied, or the one that failed."""
        self._history = history
        self._author = author
        self._code = code
        self._report = report
        self._hold = hold
        self._attempt: _Attempt | None = None

    @property
    def half_applied(self) -> bool:
        """Whether the open attempt has committed a part of its work."""
        return self._attempt is not None and self._attempt.outcome is Outcome.HALF_APPLIED

    def surround(self, plan: Plan) -> Plan:
        """`plan`, with an attempt recorded before each step and progress reported after it."""

        def steps(heads: Any, context: MigrationContext | None) -> Iterator[Step]:
            todo = list(plan(heads, context))
            infos = [step.info for step in todo]
            if any(not info.is_stamp for info in infos):
                self._begin_run(infos)
            for step, info in zip(todo, infos, strict=True):
                self._before(info)
                yield step
                self._after(info)

        return steps

    def on_version_apply(
        self, *, ctx: MigrationContext, step: MigrationInfo, heads: set[str], run_args: dict[str, Any]
    ) -> None:
        """In the step's transaction: raising here rolls the revision back."""
        self._hold.check_hold(self.connection)
        if step.is_stamp:
            self._history.stamped(self.connection, self._author, self._declared(step, frozenset(heads)))
        elif self._attempt is not None:
            self._attempt.outcome = Outcome.APPLIED
            self._history.mark(self.connection, self._attempt.id, Outcome.APPLIED)

    def record_failure(self, error: str, outcome: Outcome = Outcome.FAILED) -> None:
        """Write down how the open attempt ended; the revision has been rolled back."""
        attempt, self._attempt = self._attempt, None
        if attempt is None:
            return
        self._hold.abandon(self.connection)
        self._history.table.create(self.connection, checkfirst=True)
        if attempt.outcome is Outcome.HALF_APPLIED:
            outcome = Outcome.HALF_APPLIED
        if not self._history.mark(self.connection, attempt.id, outcome, error):
            # one transaction carried everything, and took the attempt with it
            again = self._history.begin(
                self.connection, self._author, attempt.revision, attempt.parents, attempt.direction
            )
            self._history.mark(self.connection, again, outcome, error)
        self.connection.commit()

    def _begin_run(self, infos: list[MigrationInfo]) -> None:
        verb = "Applied" if infos[0].is_upgrade else "Undid"
        self._report.planned(tuple(_revision(info) for info in infos), verb)
        self._history.prepare(self.connection, self._code.idempotent)
        sa.event.listen(self.connection, "commit", self._on_commit)

    def _before(self, info: MigrationInfo) -> None:
        if info.is_stamp:
            self._history.table.create(self.connection, checkfirst=True)
            self.connection.commit()
            return
        self._hold.check_hold(self.connection)
        self.current = _revision(info)
        parents = frozenset(info.down_revision_ids)
        direction = "upgrade" if info.is_upgrade else "downgrade"
        attempt = self._history.begin(self.connection, self._author, self.current, parents, direction)
        self._attempt = _Attempt(attempt, self.current, parents, direction)
        self._report.started(self.current)

    def _after(self, info: MigrationInfo) -> None:
        revision = _revision(info)
        self._hold.next_revision(self.connection)
        self._attempt = None
        self.current = None
        self.applied.append(revision)
        if not info.is_stamp:
            self._report.finished(revision)

    def _on_commit(self, connection: sa.Connection) -> None:
        # Before the version row has changed this is a commit in the middle of a revision. The mark goes into
        # the transaction that is being committed, so that a crash one instruction later finds it.
        if self._attempt is not None and self._attempt.outcome is Outcome.RUNNING:
            self._attempt.outcome = Outcome.HALF_APPLIED
            self._history.mark(connection, self._attempt.id, Outcome.HALF_APPLIED)

    def _declared(self, step: MigrationInfo, heads: frozenset[str]) -> dict[str, frozenset[str]]:
        before = self._code.closure(frozenset(step.source_revision_ids))
        declared = self._code.closure(heads) - before or heads
        return {revision: self._code.parents.get(revision, frozenset()) for revision in declared}


def _revision(info: MigrationInfo) -> str:
    return ",".join(info.up_revision_ids or info.down_revision_ids)
