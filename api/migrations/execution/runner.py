"""Runs migration requests with Alembic on one connection: the session that holds the lock.

What needs Alembic is imported when it is called: an instance that finds the database at head never imports it.
"""

from __future__ import annotations

import asyncio
import copy
import logging
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from ..core.protocols import MigrationRequest, ProgressListener
from ..errors import MigrationError
from .env_memory import EnvMemory
from .env_options import Pass
from .error_translation import translate
from .history_table import History, RunAuthor
from .hooks import Hooks
from .migration_lock import MigrationLock, ReleasableLock
from .revisions import Revisions
from .version_ids import WIDENS, doubtful

if TYPE_CHECKING:
    from .env_run import PreparedRun
    from .steps import StepPlan, Steps

log = logging.getLogger(__name__)

RunEnv = Callable[[sa.Connection, MigrationRequest, "Steps"], None]
OpenConnection = Callable[[], AbstractContextManager[sa.Connection]]
Watch = Callable[["StepPlan", sa.Connection], "StepPlan"]
Adopt = Callable[[sa.Connection], ReleasableLock]
"""Acquires the second lock on a connection that env.py opened, and limits its session."""


class Runner:
    """Runs requests on a connection; blocks, and is called in the migration thread."""

    def __init__(
        self,
        revisions: Revisions,
        history: History,
        author: RunAuthor,
        version_table: str,
        schema: str | None,
        *,
        drop_invalid: bool = False,
        only: Pass | None = None,
        own_connection: bool = False,
        baseline: str | None = None,
        hooks: Hooks | None = None,
    ) -> None:
        self.revisions = revisions
        self.history = history
        self.author = author
        self.own_connection = own_connection
        """Whether env.py opens a connection of its own for the revisions."""
        self.expects_tables = baseline == "base"
        """Whether a database that has tables and no revision counts as empty."""
        self.hooks = hooks or Hooks()
        self._drop_invalid = drop_invalid
        self._only = only
        self._memory = EnvMemory()
        self._run_env: RunEnv = self._execute_env
        self._fence: Callable[[], None] = lambda: None
        self._watch: Watch = lambda plan, connection: plan
        self.version: dict[str, Any] = {"version_table": version_table, "version_table_schema": schema}
        self.tables = (sa.Table(version_table, sa.MetaData(schema=schema)), history.table)
        """The version table and the history table."""

    def run(
        self, connection: sa.Connection, request: MigrationRequest, listener: ProgressListener, lock: MigrationLock
    ) -> None:
        """Run the request; every finished revision is committed when this returns.

        Raises:
            ForeignConnection: `env.py` does not use `connection`; no revision ran.
            RevisionFailed: a revision failed; it was rolled back and recorded.
            LockContended: a revision could not acquire a table lock and was rolled back.
            MigrationError: the connection or the lock was lost.
        """
        from .run_failure import raise_failure

        steps = self.steps(connection, request, listener, lock)
        try:
            self._run(connection, request, steps)
            self._memory.keep()
        except (Exception, SystemExit, asyncio.CancelledError) as error:
            self._memory.roll_back()
            raise_failure(error, request, steps, self.revisions)

    def run_on_second(
        self,
        open_connection: OpenConnection | None,
        adopt: Adopt,
        request: MigrationRequest,
        listener: ProgressListener,
        is_stopped: Callable[[], bool],
    ) -> None:
        """Run the request on another connection than the lock's; blocks, in a thread without an event loop.

        `open_connection` opens it; with None `env.py` does.

        Raises:
            CancelledError: it failed, and `is_stopped` says that it had to stop.
            MigrationError: as `run` does.
        """
        from .env_run import PreparedRun, SecondEnvRun
        from .run_failure import failure_of

        def begin(connection: sa.Connection) -> PreparedRun:
            if is_stopped():  # while env.py was being imported
                raise asyncio.CancelledError
            try:
                lock = adopt(connection)
            except sa.exc.DBAPIError as error:
                raise translate(error, "preparing the connection that env.py opens") from error
            sa.event.listen(connection, "before_cursor_execute", refuse_if_stopped)
            steps = self.steps(connection, request, listener, lock)
            plan = self.surround(self._plan(request), steps)
            return PreparedRun(self.options(steps), plan, partial(fail, steps=steps), partial(end, connection, lock))

        def refuse_if_stopped(*_: Any) -> None:
            if is_stopped():
                raise asyncio.CancelledError

        def end(connection: sa.Connection, lock: ReleasableLock) -> None:
            sa.event.remove(connection, "before_cursor_execute", refuse_if_stopped)
            lock.release(connection)

        def fail(error: BaseException, steps: Steps) -> BaseException:
            # before env.py closes its connection, on which the failure is recorded
            self._memory.roll_back()
            if is_stopped():
                return asyncio.CancelledError()
            return failure_of(error, request, steps, self.revisions)

        with open_connection() if open_connection is not None else nullcontext() as given:
            SecondEnvRun(self.revisions, begin, self._only).run(request, given)
        self._memory.keep()

    def settle(self, connection: sa.Connection) -> None:
        """Close half-applied attempts after a stamp; the caller is the session that holds the lock."""
        if sa.inspect(connection).has_table(self.history.table.name, schema=self.history.table.schema):
            self.history.settle(connection)
        connection.commit()

    def steps(
        self, connection: sa.Connection, request: MigrationRequest, listener: ProgressListener, lock: MigrationLock
    ) -> Steps:
        """Return the steps of one run on `connection`."""
        from .steps import Steps

        code, drop, fence = self.revisions.code, self._drop_invalid, self._fence
        steps = Steps(connection, self.history, self.author, code, listener, lock, drop_invalid=drop, fence=fence)
        steps.note, steps.despite_instances = request.note, request.despite_instances
        return steps

    def surround(self, plan: StepPlan, steps: Steps) -> StepPlan:
        """Return `plan` with the work around each step."""
        around = self._memory.around(steps.surround(plan), each=not steps.lock.transaction_scoped)
        return self._watch(around, steps.connection)

    def through(self, run_env: RunEnv) -> Runner:
        """Return a runner inside an Alembic command that the operator started; `run_env` replaces `env.py`."""
        other = copy.copy(self)
        other._run_env = run_env
        return other

    def fenced(self, fence: Callable[[], None]) -> Runner:
        """Return a runner that calls `fence` wherever it checks the lock; an error of `fence` ends the run."""
        other = copy.copy(self)
        other._fence = fence
        return other

    def watched(self, watch: Watch) -> Runner:
        """Return a runner for a trial without the application's functions; `watch` may change the plan of each run."""
        other = copy.copy(self)
        other.hooks, other._memory, other._watch = Hooks(), EnvMemory(), watch
        other._run_env = other._execute_env
        return other

    def planned(self, request: MigrationRequest, database: Iterable[str]) -> tuple[str, ...]:
        """Return the revisions that `request` would run on a database at the given revisions, in order.

        Raises:
            UnknownRevision: this build has no path to the target.
            SchemaRefused: the database is at a revision that this build does not contain.
        """
        if request.kind not in {"upgrade", "downgrade"}:
            return ()
        from alembic.util import CommandError

        from .run_failure import unresolved

        try:
            return tuple(step.info.up_revision_ids[0] for step in self._plan(request)(tuple(database), None))
        except CommandError as error:
            raise unresolved(error, request) from error

    def contracts(self, request: MigrationRequest, database: Iterable[str]) -> tuple[str, ...]:
        """Return the contract revisions that `request` would apply to a database at the given revisions."""
        contracts = self.revisions.code.contracts
        if not contracts or request.kind != "upgrade" or request.create_all or request.despite_instances:
            return ()
        return tuple(revision for revision in self.planned(request, database) if revision in contracts)

    def doubtful_ids(self, request: MigrationRequest, database: Iterable[str]) -> tuple[str, ...]:
        """Return the ids that may be too long for the version table if `request` writes them.

        It is empty if `env.py` or one of the revisions mentions the column, and so may widen it.
        """
        if request.kind not in {"upgrade", "stamp"} or not doubtful(self.revisions.code.parents):
            return ()
        try:
            written = self.planned(request, database) or tuple(self.revisions.resolve(request.target))
        except MigrationError:  # the run reports it
            return ()
        return () if self.revisions.mention(WIDENS, written) else doubtful(written)

    def options(self, steps: Steps) -> dict[str, Any]:
        """Return the options that `context.configure` needs besides those of `env.py`."""
        from .steps import STEPS

        return {
            STEPS: steps,
            **self.version,
            "transaction_per_migration": True,
            "transactional_ddl": steps.lock.transactional_ddl,
            "on_version_apply": steps.on_version_apply,
        }

    def _run(self, connection: sa.Connection, request: MigrationRequest, steps: Steps) -> None:
        if request.kind != "repair":
            self._run_env(connection, request, steps)
        if request.kind in {"repair", "stamp"}:
            self.settle(connection)
        connection.commit()

    def _execute_env(self, connection: sa.Connection, request: MigrationRequest, steps: Steps) -> None:
        from .env_run import EnvRun

        plan = self.surround(self._plan(request), steps)
        EnvRun(self.revisions, connection, self.options(steps), self._only).run(plan, request)

    def _plan(self, request: MigrationRequest) -> StepPlan:
        if request.create_all:
            from .bootstrap import bootstrap_plan

            return bootstrap_plan(self.revisions, [table.fullname for table in self.tables])
        directory: Any = self.revisions.directory
        planners = {"upgrade": directory._upgrade_revs, "downgrade": directory._downgrade_revs}
        planner = planners.get(request.kind, directory._stamp_revs)
        target = tuple(request.target.split(", ")) if request.kind == "stamp" else request.target
        return lambda heads, context: planner(target, heads)
