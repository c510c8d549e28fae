"""Orders carried out by Alembic on a connection that is given: the session that holds the lock, and no other."""

from __future__ import annotations

import asyncio
import copy
import logging
import re
from collections.abc import Callable, Iterable
from typing import Any

import asyncpg
import sqlalchemy as sa
from alembic.util import CommandError

from ..core.protocols import MigrationRequest, ProgressListener
from ..core.schema import repair_advice
from ..errors import (
    ConnectionLost,
    DatabaseUnreachable,
    DirectConnectionNeeded,
    LockContended,
    MigrationError,
    RevisionFailed,
    SchemaRefused,
    UnknownRevision,
)
from ..runtime.cancellation import is_cancelled
from .env_memory import EnvMemory
from .env_options import Pass
from .env_run import EnvRun
from .error_translation import contended, describe, lost, remedy, root, translate, where
from .history_table import History, Outcome, RunAuthor
from .revisions import Revisions, unknown
from .steps import MigrationLock, Plan, Steps
from .version_ids import WIDENS, doubtful, explained

log = logging.getLogger(__name__)

RunEnv = Callable[[sa.Connection, MigrationRequest, Steps], None]


class Runner:
    """Runs orders on a connection; blocking, in the migration thread."""

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
    ) -> None:
        self.revisions = revisions
        self.history = history
        self.author = author
        self._drop_invalid = drop_invalid
        self._only = only
        self._memory = EnvMemory()
        self._run_env: RunEnv = self._execute_env
        self._fence: Callable[[], None] = lambda: None
        self._version: dict[str, Any] = {"version_table": version_table, "version_table_schema": schema}

    @property
    def tables(self) -> tuple[sa.Table, sa.Table]:
        """The version table and the history table."""
        name, schema = self._version["version_table"], self._version["version_table_schema"]
        return sa.Table(name, sa.MetaData(schema=schema)), self.history.table

    def run(
        self, connection: sa.Connection, request: MigrationRequest, listener: ProgressListener, hold: MigrationLock
    ) -> None:
        """Bring the database to the order's target; every finished revision is committed when this returns.

        Raises:
            ForeignConnection: `env.py` does not use `connection`; nothing was executed.
            RevisionFailed: a revision raised; it was rolled back and recorded.
            MigrationError: the connection was lost (transient), or the hold was.
        """
        steps = self.steps(connection, listener, hold)
        try:
            self._run(connection, request, steps)
            self._memory.keep()
        except (Exception, SystemExit, asyncio.CancelledError) as error:
            self._memory.roll_back()
            # a revision that calls exit() has failed: let through, its code would become ours, and 0 say "done"
            reason = _why_dead(error) if _dead(connection) else error
            if isinstance(reason, asyncio.CancelledError) and is_cancelled():
                raise asyncio.CancelledError from error
            raise self._failed(reason, request, steps) from error

    def steps(self, connection: sa.Connection, listener: ProgressListener, hold: MigrationLock) -> Steps:
        """The hooks for one run on `connection`."""
        code, drop, fence = self.revisions.code, self._drop_invalid, self._fence
        return Steps(connection, self.history, self.author, code, listener, hold, drop_invalid=drop, fence=fence)

    def surround(self, plan: Plan, steps: Steps) -> Plan:
        """`plan`, with all that happens around its steps."""
        return self._memory.around(steps.surround(plan), each=not steps.all_in_one)

    def through(self, run_env: RunEnv) -> Runner:
        """A runner like this one inside an Alembic command that somebody else started."""
        other = copy.copy(self)
        other._run_env = run_env
        return other

    def fenced(self, fence: Callable[[], None]) -> Runner:
        """A runner like this one that calls `fence` wherever it makes sure of the lock; what that raises ends it."""
        other = copy.copy(self)
        other._fence = fence
        return other

    def planned(self, request: MigrationRequest, database: Iterable[str]) -> tuple[str, ...]:
        """The revisions that `request` would run on a database at the given revisions, in order.

        Raises:
            UnknownRevision: this build cannot get from there to the target.
        """
        if request.kind not in {"upgrade", "downgrade"}:
            return ()
        try:
            steps = list(self._plan(request)(tuple(database), None))
        except CommandError as error:
            raise _not_there(error, request) from error
        return tuple(step.info.up_revision_ids[0] for step in steps)

    def doubtful_ids(self, request: MigrationRequest, database: Iterable[str]) -> tuple[str, ...]:
        """The ids that `request` would write into the version table, and that may not fit into it.

        None where `env.py` or a revision that comes before may widen it.
        """
        if request.kind not in {"upgrade", "stamp"} or not doubtful(self.revisions.code.parents):
            return ()
        try:
            written = self.planned(request, database) or tuple(self.revisions.resolve(request.target))
        except MigrationError:  # the run itself says what is wrong
            return ()
        return () if self.revisions.mention(WIDENS, written) else doubtful(written)

    def options(self, steps: Steps) -> dict[str, Any]:
        """What `context.configure` must be given, whatever `env.py` says."""
        return {
            **self._version,
            "transaction_per_migration": True,
            "transactional_ddl": steps.transactional_ddl,
            "on_version_apply": steps.on_version_apply,
        }

    def _run(self, connection: sa.Connection, request: MigrationRequest, steps: Steps) -> None:
        if request.kind != "repair":
            self._run_env(connection, request, steps)
        if request.kind in {"repair", "stamp"} and sa.inspect(connection).has_table(
            self.history.table.name, schema=self.history.table.schema
        ):
            self.history.settle(connection)
        connection.commit()

    def _execute_env(self, connection: sa.Connection, request: MigrationRequest, steps: Steps) -> None:
        plan = self.surround(self._plan(request), steps)
        EnvRun(self.revisions, connection, self.options(steps), self._only).run(plan, request.target)

    def _plan(self, request: MigrationRequest) -> Plan:
        directory, target = self.revisions.directory, request.target
        if request.kind == "upgrade":
            return lambda heads, context: directory._upgrade_revs(target, heads)
        if request.kind == "downgrade":
            return lambda heads, context: directory._downgrade_revs(target, heads)
        return lambda heads, context: directory._stamp_revs(target, heads)

    def _failed(self, error: BaseException, request: MigrationRequest, steps: Steps) -> MigrationError:
        if isinstance(error, DirectConnectionNeeded) and steps.current is not None:
            error = DirectConnectionNeeded.for_block(self.revisions.describe(steps.current))
            _record(steps, str(error), type(error).__name__, Outcome.FAILED)
        if isinstance(error, MigrationError):
            return error
        if _dead(steps.connection) or (lost(error) and not _mistaken(error)):
            return self._lost(error, request, steps)
        if steps.current is None:
            return _not_there(error, request) if isinstance(error, CommandError) else translate(error, "migrating")
        path = self.revisions.path(steps.current)
        how = "failed after it had committed a part of its work" if steps.half_applied else "failed and was rolled back"
        kind = type(root(error)).__name__
        message = f"revision {self.revisions.describe(steps.current)} {how}: {describe(error)}{where(error, path)}"
        if steps.half_applied:
            message += repair_advice(steps.left_behind())
        message += remedy(error) or explained(error, steps.current)
        if contended(error) and not steps.half_applied:
            _record(steps, message, kind, Outcome.RETRIED)
            return LockContended(message, steps.current, steps.applied)
        _record(steps, message, kind, Outcome.FAILED)
        return RevisionFailed(message, revision=steps.current, applied=steps.applied)

    def _lost(self, error: BaseException, request: MigrationRequest, steps: Steps) -> MigrationError:
        doing = f"applying {steps.current or 'revisions'}"
        # what a revision raises because its connection is dead may be anything
        trouble = translate(error, doing) if lost(error) else DatabaseUnreachable(f"no connection while {doing}")
        if steps.under_way is None:
            return trouble
        return ConnectionLost(
            str(trouble),
            revision=steps.under_way,
            name=self.revisions.describe(steps.under_way),
            upgrade=request.kind == "upgrade",
            last_words=describe(error),
            error_class=type(root(error)).__name__,
        )


def _record(steps: Steps, message: str, kind: str, outcome: Outcome) -> None:
    try:
        steps.record_failure(message, kind, outcome)
    except sa.exc.SQLAlchemyError as error:
        # What failed is what is told. SQLite has one lock for everything: what is in the revision's way is in the way
        # of the record too. The next attempt closes the one that is left open.
        if not contended(error):
            log.warning("Could not record the failure: %s", describe(error), extra={"event": "not_recorded"})


def _mistaken(error: BaseException) -> bool:
    # asyncpg says InterfaceError for a lost connection and for wrong arguments alike, and a revision may open a file
    # that is not there: where the connection is not dead, that is what it was
    return isinstance(root(error), asyncpg.InterfaceError | OSError)


def _dead(connection: sa.Connection) -> bool:
    if connection.closed:  # by env.py, which is no accident of the network
        return False
    if connection.invalidated:
        return True
    is_closed = getattr(connection.connection.driver_connection, "is_closed", None)
    return is_closed is not None and bool(is_closed())


def _why_dead(error: BaseException) -> BaseException:
    # Alembic leaves an autocommit block by asking the connection; where that is dead it raises over what killed it
    above: BaseException | None = error
    while above is not None:
        if isinstance(above, asyncio.CancelledError) or lost(above):
            return above
        above = above.__context__
    return error


def _not_there(error: CommandError, request: MigrationRequest) -> MigrationError:
    if "locate revision" not in str(error):
        # Alembic's other messages ("Relative revision -9 didn't produce 9 migrations") say what is wrong by themselves
        return UnknownRevision(str(error))
    if f"'{re.split('[+-]', request.target)[0]}'" in str(error):
        return unknown(request.target)
    return SchemaRefused(
        f"the database is at a revision that this build does not contain ({error}). To fix: deploy the release that "
        "contains it, or declare another one with 'alembic stamp --purge REVISION'"
    )
