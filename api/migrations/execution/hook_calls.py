"""Decides when the application's functions `before` and `after` are called in a run, and calls them."""

from __future__ import annotations

import asyncio

import sqlalchemy as sa
from alembic.runtime.migration import MigrationContext

from ..core.protocols import MigrationRequest, ProgressListener
from ..errors import MigrationError
from .hooks import Hook
from .migration_lock import MigrationLock
from .run_failure import raise_failure
from .runner import Runner


class HookCalls:
    """The calls of the functions of `runner`, on the session that holds the lock."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._hooks = runner.hooks

    def before(
        self, connection: sa.Connection, request: MigrationRequest, listener: ProgressListener, lock: MigrationLock
    ) -> None:
        """Call the application's function `before`, if the request will apply revisions; raises as `run` does."""
        if self._hooks.before is None or request.kind != "upgrade":
            return
        try:
            planned = self._runner.planned(request, self._heads(connection))
        except MigrationError:  # the run reports it
            return
        if planned:
            self._call(self._hooks.before, planned[0], connection, request, listener, lock)

    def after(
        self, connection: sa.Connection, request: MigrationRequest, listener: ProgressListener, lock: MigrationLock
    ) -> None:
        """Call the application's function `after`, if the database is at head without it; raises as `run` does."""
        if self._hooks.after is None or request.kind != "upgrade":
            return
        heads, code = self._heads(connection), self._runner.revisions.code
        if heads - code.parents.keys() or code.pending(heads):
            return
        self._runner.history.create(connection)
        completed = connection.execute(sa.select(self._runner.history.completed)).scalar()
        connection.commit()
        if completed != code.head:
            self._call(self._hooks.after, code.head, connection, request, listener, lock)

    def _heads(self, connection: sa.Connection) -> frozenset[str]:
        heads = MigrationContext.configure(connection, opts=self._runner.version).get_current_heads()
        connection.rollback()
        return frozenset(heads)

    def _call(
        self,
        hook: Hook,
        revision: str,
        connection: sa.Connection,
        request: MigrationRequest,
        listener: ProgressListener,
        lock: MigrationLock,
    ) -> None:
        steps = self._runner.steps(connection, request, listener, lock)
        try:
            steps.call(hook, revision)
        except (Exception, SystemExit, asyncio.CancelledError) as error:
            raise_failure(error, request, steps, self._runner.revisions)
