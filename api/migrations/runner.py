"""Alembic on a connection that is given to it: the session that holds the lock, and no other.

`env.py` files in the wild come in four shapes; three of them would run the DDL outside that session or
outside its own transaction per revision. They are refused before anything is executed, with the remedy.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import asyncpg
import sqlalchemy as sa
from alembic.runtime.environment import EnvironmentContext
from alembic.util import CommandError

from .errors import ForeignConnection, LockContended, MigrationError, RevisionFailed, UnknownRevision
from .failures import describe, lost, root, sqlstate, translate, where
from .history import Author, History, Outcome
from .ports import Order, Report
from .revisions import Revisions, unknown
from .steps import Hold, Plan, Steps

RunEnv = Callable[[sa.Connection, Order, Steps], None]

_CONTENTION = {"55P03", "40P01"}
"""lock_not_available and deadlock_detected: nobody did anything wrong, somebody else was there first."""

GIVEN = "connection"
"""Key of `config.attributes` under which `env.py` finds the connection, as Alembic's cookbook has it."""

_REMEDY = (
    "make alembic/env.py these three lines, or take context.config.attributes['connection'] there: "
    f"from {__package__}.environment import run_env | from your.models import Base | run_env(Base.metadata)"
)


class Runner:
    """Runs orders on a connection; blocking, in the migration thread."""

    def __init__(
        self, revisions: Revisions, history: History, author: Author, version_table: str, schema: str | None
    ) -> None:
        self.revisions = revisions
        self.history = history
        self._author = author
        self._run_env: RunEnv = self._run_given_env
        self._version: dict[str, Any] = {"version_table": version_table, "version_table_schema": schema}

    @property
    def tables(self) -> tuple[sa.Table, sa.Table]:
        """The version table and the history table."""
        name, schema = self._version["version_table"], self._version["version_table_schema"]
        return sa.Table(name, sa.MetaData(schema=schema)), self.history.table

    def carry_out(self, connection: sa.Connection, order: Order, report: Report, hold: Hold) -> None:
        """Bring the database to the order's target; every finished revision is committed when this returns.

        Raises:
            ForeignConnection: `env.py` does not use `connection`; nothing was executed.
            RevisionFailed: a revision raised; it was rolled back and recorded.
            MigrationError: the connection was lost (transient), or the hold was.
        """
        steps = self.steps(connection, report, hold)
        try:
            self._run(connection, order, steps)
        except Exception as error:
            raise self._failed(error, order, steps, hold) from error

    def steps(self, connection: sa.Connection, report: Report, hold: Hold) -> Steps:
        """The hooks for one run on `connection`."""
        return Steps(connection, self.history, self._author, self.revisions.code, report, hold)

    def through(self, run_env: RunEnv) -> Runner:
        """A runner like this one inside an Alembic command that somebody else started."""
        other = copy.copy(self)
        other._run_env = run_env
        return other

    def planned(self, order: Order, database: Iterable[str]) -> tuple[str, ...]:
        """The revisions that `order` would run on a database at the given revisions, in order.

        Raises:
            UnknownRevision: this build cannot get from there to the target.
        """
        if order.kind not in {"upgrade", "downgrade"}:
            return ()
        try:
            steps = list(self._plan(order)(tuple(database), None))
        except CommandError as error:
            raise _not_there(error, order) from error
        return tuple(step.info.up_revision_ids[0] for step in steps)

    def options(self, steps: Steps) -> dict[str, Any]:
        """What `context.configure` must be given, whatever `env.py` says."""
        return {**self._version, "transaction_per_migration": True, "on_version_apply": steps.on_version_apply}

    def _run(self, connection: sa.Connection, order: Order, steps: Steps) -> None:
        if order.kind != "repair":
            self._run_env(connection, order, steps)
        if order.kind in {"repair", "stamp"} and sa.inspect(connection).has_table(
            self.history.table.name, schema=self.history.table.schema
        ):
            self.history.settle(connection)
        connection.commit()

    def _run_given_env(self, connection: sa.Connection, order: Order, steps: Steps) -> None:
        config = self.revisions.config
        config.attributes[GIVEN] = connection
        plan = steps.surround(self._plan(order))
        environment = EnvironmentContext(config, self.revisions.directory, fn=plan, destination_rev=order.target)
        reached: list[bool] = []
        loggers = _Loggers()
        configure = partial(self._configure, environment.configure, connection, steps, reached, loggers)
        # Alembic offers no hook on configure(); the instance's attribute is what its module-level proxy calls.
        setattr(environment, "configure", configure)  # noqa: B010
        try:
            with environment:
                self.revisions.directory.run_env()
        except Exception as error:
            if reached or isinstance(error, MigrationError):
                raise
            if "asyncio.run() cannot be called" in str(error):
                raise ForeignConnection(f"env.py opens a connection of its own; {_REMEDY}") from error
            raise ForeignConnection(
                f"env.py failed before it took the connection ({describe(error)}); {_REMEDY}"
            ) from error
        finally:
            loggers.restore()
            config.attributes.pop(GIVEN, None)
        if not reached:
            raise ForeignConnection(f"env.py never called context.configure; {_REMEDY}")

    def _configure(
        self,
        configure: Callable[..., None],
        given: sa.Connection,
        steps: Steps,
        reached: list[bool],
        loggers: _Loggers,
        connection: sa.Connection | None = None,
        **options: Any,
    ) -> None:
        if connection is not given:
            raise ForeignConnection(f"env.py migrates on a connection that does not hold the lock; {_REMEDY}")
        if connection.in_transaction():
            raise ForeignConnection(f"env.py begins a transaction around all revisions; {_REMEDY}")
        reached.append(True)
        loggers.restore()
        theirs = options.get("on_version_apply") or ()
        ours = self.options(steps)
        callbacks = (*(theirs if isinstance(theirs, (list, tuple)) else (theirs,)), ours["on_version_apply"])
        configure(connection=connection, **{**options, **ours, "on_version_apply": callbacks})

    def _plan(self, order: Order) -> Plan:
        directory, target = self.revisions.directory, order.target
        if order.kind == "upgrade":
            return lambda heads, context: directory._upgrade_revs(target, heads)
        if order.kind == "downgrade":
            return lambda heads, context: directory._downgrade_revs(target, heads)
        return lambda heads, context: directory._stamp_revs(target, heads)

    def _failed(self, error: Exception, order: Order, steps: Steps, hold: Hold) -> MigrationError:
        if isinstance(error, MigrationError) or (lost(error) and not _mistaken(error, steps.connection)):
            return translate(error, f"applying {steps.current or 'revisions'}")
        if steps.current is None:
            return _not_there(error, order) if isinstance(error, CommandError) else translate(error, "migrating")
        path = self.revisions.path(steps.current)
        how = "failed after it had committed a part of its work" if steps.half_applied else "failed and was rolled back"
        message = f"revision {self.revisions.describe(steps.current)} {how}: {describe(error)}{where(error, path)}"
        again = sqlstate(error) in _CONTENTION and hold.retryable and not steps.half_applied
        steps.record_failure(message, Outcome.RETRIED if again else Outcome.FAILED)
        return (LockContended if again else RevisionFailed)(message, revision=steps.current, applied=steps.applied)


class _Loggers:
    """The service's logging as it was: `fileConfig` in Alembic's templates disables every logger that exists."""

    def __init__(self) -> None:
        known = [logging.getLogger(), *logging.Logger.manager.loggerDict.values()]
        loggers = [one for one in known if isinstance(one, logging.Logger)]
        self._were = [(one, one.disabled, one.level, one.propagate, one.handlers[:]) for one in loggers]

    def restore(self) -> None:
        """Undo what has been done to it since."""
        for logger, disabled, level, propagate, handlers in self._were:
            logger.disabled, logger.propagate, logger.handlers[:] = disabled, propagate, handlers
            logger.setLevel(level)


def _mistaken(error: Exception, connection: sa.Connection) -> bool:
    # asyncpg says InterfaceError for a lost connection and for wrong arguments alike; the connection tells them apart
    alive = not connection.invalidated and not connection.connection.driver_connection.is_closed()  # type: ignore[union-attr]
    return isinstance(root(error), asyncpg.InterfaceError) and alive


def _not_there(error: CommandError, order: Order) -> UnknownRevision:
    # Alembic's other messages ("Relative revision -9 didn't produce 9 migrations") say what is wrong by themselves
    return unknown(order.target) if "locate revision" in str(error) else UnknownRevision(str(error))
