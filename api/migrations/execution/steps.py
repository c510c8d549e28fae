"""Records each revision's attempt before it runs, its outcome in its transaction, and a mark with a commit inside it.

Alembic reads the steps of a run from an iterator, one at a time and outside the step's transaction, so a generator runs
before and after each revision. `on_version_apply` runs inside its transaction, after the version row was changed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from typing import Any, NoReturn

import sqlalchemy as sa
from alembic.runtime.migration import MigrationContext, MigrationInfo, RevisionStep, StampStep

from ..core.builds import outdated, refusal
from ..core.protocols import ProgressListener
from ..core.schema import CodeRevisions, HalfApplied
from ..errors import DirectConnectionNeeded
from ..runtime.thread import wait_on_loop
from .history_table import Attempt, History, Outcome, RunAuthor
from .hooks import Hook
from .invalid_indexes import drop_index
from .migration_lock import MigrationLock
from .open_attempt import OpenAttempt
from .turns import Turns

log = logging.getLogger(__name__)

STEPS = "fleet_steps"
"""The option of Alembic's context under which a function that a revision calls finds the run's `Steps`."""
AlembicStep = RevisionStep | StampStep
StepPlan = Callable[[Any, MigrationContext | None], Iterable[AlembicStep]]


class Steps:
    """The steps of one run on one connection."""

    def __init__(
        self,
        connection: sa.Connection,
        history: History,
        author: RunAuthor,
        code: CodeRevisions,
        listener: ProgressListener,
        lock: MigrationLock,
        *,
        drop_invalid: bool = False,
        fence: Callable[[], None] = lambda: None,
    ) -> None:
        self.connection = connection
        self.note: str | None = None
        """The note on stamped revisions; a step of an upgrade with a note stands for all revisions."""
        self.despite_instances = False
        """Whether a contract revision runs even if instances of older builds are connected."""
        self.applied: list[str] = []
        self.current: str | None = None
        """The revision being applied, or the one that failed; `before` or `after` for the application's function."""
        self.title: str | None = None
        """The name of the application's function, if one is called."""
        self.history = history
        self._author = author
        self.code = code
        self.listener = listener
        self.lock = lock
        self._fence = fence
        self._drop_invalid = drop_invalid
        self.open_attempt = OpenAttempt(connection, history, lock)
        self._turns = Turns(history, author, lock)
        self._infos: list[MigrationInfo] = []
        self._unfinished: dict[str, frozenset[str]] = {}
        self._following: Attempt | None = None
        """The attempt at the next revision, recorded in the transaction of the one before it."""
        self._block_refused = False

    @property
    def under_way(self) -> str | None:
        """The revision with an open attempt."""
        return self.current if self.open_attempt.attempt is not None else None

    @property
    def half_applied(self) -> bool:
        """Whether the open attempt has committed a part of its work."""
        return self.open_attempt.attempt is not None and self.open_attempt.attempt.half

    def left_behind(self) -> HalfApplied:
        """Return the half-applied attempt, for the message."""
        with self.open_attempt.unwatched() as attempt:
            self.connection.rollback()
            left = self.lock.invalid_indexes(self.connection) - attempt.invalid_before
            return HalfApplied(attempt.revision, attempt.statement, tuple(sorted(left)))

    def surround(self, plan: StepPlan) -> StepPlan:
        """Return `plan` with an attempt recorded before each step, and progress reported after it."""

        def steps(heads: Any, context: MigrationContext | None) -> Iterator[AlembicStep]:
            todo = list(plan(heads, context))
            if self.lock.transaction_scoped and context is not None:
                # on the context, because a helper function of the revision may open the block
                setattr(context, "autocommit_block", self._refuse_block)  # noqa: B010
            self._infos = infos = [step.info for step in todo]
            if any(not info.is_stamp for info in infos):
                self._begin_run(infos)
            for step, info in zip(todo, infos, strict=True):
                self._before(info)
                yield self._checked(step)
                self._after(info)
            if self.applied:
                self._report_invalid()

        return steps

    def call(self, hook: Hook, revision: str) -> None:
        """Call the application's function and record it at `revision`, in one transaction."""
        log.info("Running %s", hook.title, extra={"event": f"{hook.moment}_started"})
        self.history.prepare(self.connection, self.code.idempotent)
        self.check_lock()
        self.current, self.title = hook.moment, hook.title
        attempt = Attempt(revision, frozenset(), hook.moment)
        self.lock.set_limits(self.connection, hook.moment)
        self.history.begin(self.connection, self._author, attempt)
        self.open_attempt.attempt = attempt
        self.listener.started(hook.moment)
        hook.call(self.connection)
        self.check_lock()
        self.lock.check_constraints(self.connection)
        attempt.outcome = Outcome.APPLIED
        self.history.mark(self.connection, attempt)
        self.connection.commit()
        self.open_attempt.attempt = self.current = None

    def on_version_apply(self, *, step: MigrationInfo, heads: set[str], **_: Any) -> None:
        """Check the lock and record the outcome in the step's transaction; an error rolls the revision back."""
        following = self._next()
        if following is None:
            self.check_lock()
        self.lock.check_constraints(self.connection)
        if step.is_stamp:
            self._stamped(frozenset(step.source_revision_ids), frozenset(heads))
        elif self.open_attempt.attempt is not None:
            self.open_attempt.attempt.outcome = Outcome.APPLIED
            if following is not None:
                self._fence()
                self._turns.turn(self.connection, self.open_attempt.attempt, following)
                self._following = following
            else:
                self.history.mark(self.connection, self.open_attempt.attempt)
            if len(self.applied) + 1 == len(self._infos):
                self.lock.wake(self.connection)
            if self.note is not None:
                self._stamped(frozenset(), self.code.heads)

    def record_failure(self, error: str, error_class: str, outcome: Outcome) -> None:
        """Record the outcome of the open attempt, whose revision is rolled back."""
        attempt, self.open_attempt.attempt = self.open_attempt.attempt, None
        self._following = None  # rolled back with it
        if self.lock.transaction_scoped:
            self.applied.clear()  # they were in the same transaction
        if attempt is None or not self.lock.roll_back(self.connection):
            return  # another lock holder records its own attempt
        self.history.create(self.connection)
        attempt.error_class = error_class
        # not by `attempt.outcome`, which is "applied" if COMMIT failed
        attempt.outcome = Outcome.HALF_APPLIED if attempt.half else outcome
        self.history.fail(self.connection, self._author, attempt, error)
        self.lock.commit_record(self.connection)

    def _begin_run(self, infos: list[MigrationInfo]) -> None:
        # first, because a read-only server refuses this write: then no run is reported
        self.history.prepare(self.connection, self.code.idempotent)
        self._unfinished = self.history.unfinished(self.connection)
        self.listener.planned(tuple(map(_revision, infos)), "Applied" if infos[0].is_upgrade else "Undid")
        self._report_invalid()
        self.open_attempt.listen()

    def _before(self, info: MigrationInfo) -> None:
        if info.is_stamp:
            self.history.create(self.connection)
            self.connection.commit()
            return
        self.current = _revision(info)
        attempt, self._following = self._following, None
        if attempt is not None:
            wait_on_loop(self.listener.between)
        else:
            self.check_lock()
            self._check_instances(info)
            attempt = _attempt(info)
            attempt.requires = self.code.contracts.get(self.current) if info.is_upgrade else None
            attempt.invalid_before = self._invalid_before(self.current)
            self.lock.set_limits(self.connection, self.current)
            self.history.begin(self.connection, self._author, attempt)
        self.open_attempt.begin(attempt)
        self.listener.started(self.current)

    def _after(self, info: MigrationInfo) -> None:
        revision = _revision(info)
        self.open_attempt.attempt = self.current = None
        self.applied.append(revision)
        if not info.is_stamp:
            self.listener.finished(revision)

    def _next(self) -> Attempt | None:
        """Return the attempt at the next revision, if it may be recorded together with the end of this one."""
        position = len(self.applied) + 1
        attempt = self.open_attempt.attempt
        # what a contract requires is recorded with its end
        if attempt is None or attempt.requires or self.lock.holds is None or position >= len(self._infos):
            return None
        info = self._infos[position]
        checked_first = self._unfinished.keys() | self.code.contracts.keys()
        return None if info.is_stamp or _revision(info) in checked_first else _attempt(info)

    def _checked(self, step: AlembicStep) -> AlembicStep:
        # before the version row changes, because outside a transaction that could not be rolled back
        migrate = step.migration_fn

        @wraps(migrate)  # Alembic logs the function's name
        def checked(**arguments: Any) -> None:
            migrate(**arguments)
            if self._block_refused:
                self._refuse_block()  # again, because the revision suppressed the first error
            self.open_attempt.check()

        step.migration_fn = checked
        return step

    def _refuse_block(self) -> NoReturn:
        self._block_refused = True
        raise DirectConnectionNeeded.for_block(str(self.current))

    def _stamped(self, before: frozenset[str], heads: frozenset[str]) -> None:
        revisions, contracts = self.code.stamped(before, heads), self.code.contracts
        self.history.stamped(self.connection, self._author, revisions, self.note, contracts)

    def check_lock(self) -> None:
        """Raise `HoldLost` unless the elector's hold is this instance's and the lock this session's."""
        self._fence()
        self.lock.check_hold(self.connection)

    def _check_instances(self, info: MigrationInfo) -> None:
        # again, although the session did it before the run: an old instance may have started during other revisions
        contracts = self.code.contracts.keys() & set(info.up_revision_ids)
        if not contracts or not info.is_upgrade or self.despite_instances or self.note is not None:
            return
        sessions, lineage = self.lock.named_sessions(self.connection), self.history.lineage(self.connection)
        if blockers := outdated(sessions, contracts, self.code, lineage):
            raise refusal(blockers, contracts, self.code)

    def _invalid_before(self, revision: str) -> frozenset[str]:
        now = self.lock.invalid_indexes(self.connection)
        before = self._unfinished.get(revision)
        if before is None:
            return now
        for name in now - before if self._drop_invalid else ():
            drop_index(self.connection, name)
            self.listener.dropped(name)
        return before

    def _report_invalid(self) -> None:
        self.listener.invalid(tuple(sorted(self.lock.invalid_indexes(self.connection))))
        self.connection.commit()


def _attempt(info: MigrationInfo) -> Attempt:
    direction = "upgrade" if info.is_upgrade else "downgrade"
    return Attempt(_revision(info), frozenset(info.down_revision_ids), direction)


def _revision(info: MigrationInfo) -> str:
    return ",".join(info.up_revision_ids or info.down_revision_ids)
