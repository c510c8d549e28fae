"""Reads the schema, tries the lock, reads again under it, migrates, and verifies on a fresh connection.

A waiter watches the schema's version, not the lock. A timeout never means "start anyway".
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TypeVar

from ..errors import (
    COMMAND,
    ConfigurationError,
    DatabaseUnreachable,
    LockContended,
    MigrationError,
    OldInstances,
    SchemaRefused,
)
from .clock import Clock
from .decision import Action, AttemptHistory, Policy, assess_attempts, decide, refusal, refuse_if_settled
from .protocols import MigrationRequest, MigrationSession
from .reporter import ProgressReporter
from .retries import Retries, record
from .run_timeout import settle_timeout, within_budget
from .schema import UNCLEAR, Schema, SchemaState, compare_with_build, explain, invalid_index_advice
from .scope import Scope
from .status import LockStatus, Phase, Progress, Tracker
from .wait_budget import WaitBudget

log = logging.getLogger(__name__)

T = TypeVar("T")


class Coordinator:
    """Brings one instance to a verified schema, whichever instance migrates.

    `scopes` are the version tables that the settings name; none if only env.py knows them. `inspect` finds those of
    env.py, once and before any lock; a start that finds the settings' scopes at head stays fast without it. `policy`
    has the wait budget of all scopes. One that `looks` is one of many, and logs only the last scope's result.
    """

    def __init__(
        self,
        scopes: Sequence[Scope],
        tracker: Tracker,
        policy: Policy,
        clock: Clock,
        inspect: Callable[[], Awaitable[Sequence[Scope]]] | None = None,
        *,
        looks: bool = False,
    ) -> None:
        self._scopes = list(scopes)
        self._inspect = inspect
        self._looks = looks
        self._unclear = not self._scopes and inspect is not None
        self._tracker = tracker
        self._reporter = ProgressReporter(tracker)
        self._wait_budget = WaitBudget(tracker, policy, clock)
        self._retries = Retries(
            self._wait_budget,
            self._reporter,
            lambda error, failure: self._with_session(
                lambda session: record(session, error, failure, self._scope.code, tracker.status)
            ),
        )
        self._lineage: Mapping[str, frozenset[str]] = {}
        self._contracts: Mapping[str, str] = {}

    async def become_ready(self) -> None:
        """Return when the schema is verified; the tracker is then `ready`.

        Raises:
            MigrationError: the schema was not verified within the wait budget; the tracker is then `failed`.
        """
        await self._retry(self._reach_heads)

    async def execute(self, request: MigrationRequest) -> None:
        """Run `request` under the lock, and wait for the lock within the wait budget.

        Raises:
            MigrationError: the request failed or did not run.
        """
        await self._retry(lambda: self._execute_in_each(request))

    async def _retry(self, attempt: Callable[[], Awaitable[None]]) -> None:
        self._tracker.move(Phase.CHECKING, limit=self._wait_budget.limit)
        try:
            await self._retries.until_done(attempt)
        except MigrationError as error:
            if self._scopes and self._scope.name is not None:
                error.name_scope(self._scope.name)
            self._tracker.move(Phase.FAILED, message=error.message, error_class=type(error))
            raise

    @property
    def _scope(self) -> Scope:
        return self._scopes[0]

    @property
    def _policy(self) -> Policy:
        return self._scope.policy

    async def _with_session(self, use: Callable[[MigrationSession], Awaitable[T]]) -> T:
        self._tracker.note(**self._scope.facts)
        self._reporter.enter(self._scope.name)
        session = self._scope.sessions()
        try:
            await session.open()
            return await use(session)
        finally:
            await session.close()

    async def _verify(self) -> Schema:
        return await self._with_session(self._read_schema)

    async def _reach_heads(self) -> None:
        while self._scopes or self._unclear:
            if not self._unclear and await self._with_session(self._reach_head):
                self._scopes.pop(0)
            elif self._inspect is not None:
                # without a session: env.py's imports may take a minute
                self._scopes, self._inspect, self._unclear = list(await self._inspect()), None, False

    async def _execute_in_each(self, request: MigrationRequest) -> None:
        while self._scopes:
            await self._with_session(lambda session: self._execute(session, request))
            self._scopes.pop(0)

    async def _reach_head(self, session: MigrationSession) -> bool:
        """Return whether head is reached; if not, env.py must be inspected first."""
        while True:
            try:
                schema = await self._read_schema(session)
            except ConfigurationError:
                if self._inspect is None:  # otherwise env.py may name other version tables
                    raise
                return False
            if not self._policy.satisfied(schema) and self._inspect is not None:
                return False
            attempt_history = await self._attempt_history(session, schema)
            action = decide(schema, self._policy, attempt_history=attempt_history)
            if action is Action.TRY_LOCK:
                await session.store.check_ids(self._policy.upgrade, schema.revisions)
                if not await self._acquire(session, schema, attempt_history):
                    continue
                schema, attempt_history, action = await self._migrate_if_needed(session)
            if action is Action.SERVE:
                self._serve(schema)
                return True
            if action not in {Action.TRY_LOCK, Action.WAIT}:
                self._tracker.note(schema=schema)
                raise refusal(action, schema, attempt_history)
            await self._wait_budget.wait(session, schema, attempt_history)

    async def _acquire(self, session: MigrationSession, schema: Schema, attempt_history: AttemptHistory) -> bool:
        """Wait for the lock until it is acquired; return False if the schema may have changed before that."""
        while not await session.try_lock():
            if await self._wait_budget.wait(session, schema, attempt_history):
                return False
        return True

    async def _migrate_if_needed(self, session: MigrationSession) -> tuple[Schema, AttemptHistory, Action]:
        schema = await self._read_schema(session)
        attempt_history = await self._attempt_history(session, schema)
        action = decide(schema, self._policy, locked=True, attempt_history=attempt_history)
        held = True
        if action is Action.MIGRATE:
            request = self._policy.request(schema)
            held = await self._migrate(session, request)
            schema = await self._verify()
            # after a baseline the lock is acquired again, because behind a pooler the stamp has released it
            action = decide(schema, self._policy, locked=held and request.kind == "upgrade")
        if held:
            await session.unlock()
        else:
            await session.open()  # `_migrate` has closed it
        return schema, attempt_history, action

    async def _execute(self, session: MigrationSession, request: MigrationRequest) -> None:
        schema = await self._read_schema(session)
        await session.store.check_ids(request, schema.revisions)
        while not await self._acquire(session, schema, AttemptHistory()):
            schema = await self._read_schema(session)
        schema = await self._read_schema(session)
        if schema.state in UNCLEAR and request.kind in {"upgrade", "downgrade"}:
            raise SchemaRefused(explain(schema))
        if request.repairs is not None:
            refuse_if_settled(await session.store.observe(), request.repairs)
        self._tracker.note(progress=Progress())  # the progress so far is that of another instance's run
        try:
            held = await self._migrate(session, request)
            schema = await self._verify()
            if held:
                await session.unlock()
        except DatabaseUnreachable as error:
            if not request.relative:
                raise
            raise MigrationError(
                f"{error.message}. It is not known whether the last step was committed, so the relative target "
                f"{request.target} is not repeated. To fix: run '{COMMAND} status', then name the target revision"
            ) from error
        self._done(explain(schema))

    async def _read_schema(self, session: MigrationSession) -> Schema:
        await session.open()
        code, observed = self._scope.code, await session.store.observe()
        if observed.revisions - code.parents.keys():
            self._lineage, self._contracts = await session.store.lineage(), await session.store.contracts()
        # half applied is shown only when the lock proves it: the lock holder may still be running the revision
        shown = compare_with_build(replace(observed, half_applied=()), code, self._lineage, self._contracts)
        self._reporter.schema_read(observed, shown, self._scope.name)
        self._wait_budget.answered()
        return compare_with_build(observed, code, self._lineage, self._contracts)

    async def _attempt_history(self, session: MigrationSession, schema: Schema) -> AttemptHistory:
        if schema.pending:
            attempts = await session.store.attempts(schema.pending)
        elif schema.state is SchemaState.AT_HEAD and not self._policy.satisfied(schema):
            attempts = await session.store.attempts([self._scope.code.head], ["after"])
        else:
            return AttemptHistory()
        return assess_attempts(attempts, self._policy, self._wait_budget.lived_seconds)

    async def _migrate(self, session: MigrationSession, request: MigrationRequest) -> bool:
        """Run the request under the lock; return whether the lock is still held."""
        if (refusal := await session.old_instances(request)) is not None:
            raise refusal
        self._tracker.move(Phase.MIGRATING, message=None, limit=None, lock_status=await session.lock_status())
        second = self._scope.sessions()
        held = True
        try:
            if request.kind != "stamp":  # a baseline changes no table
                await session.back_up_if_requested(request)
            async with within_budget(second, self._tracker, self._reporter, self._policy.run_seconds):
                await session.run(request, self._reporter)
        except TimeoutError:
            await settle_timeout(
                second, request, self._scope.code, self._tracker, self._reporter, self._policy.run_seconds
            )
            await session.close()
            held = False
        except (DatabaseUnreachable, LockContended, OldInstances) as error:
            self._retries.count_interruption(error, self._scope.name)
            raise
        except MigrationError as error:
            self._reporter.ended("failed", error.message)
            with suppress(MigrationError):  # it wakes the waiters, which then do not repeat the run
                await session.unlock()
            raise
        finally:
            await second.close()
        self._reporter.ended("applied")
        self._tracker.move(Phase.VERIFYING, lock_status=LockStatus(), limit=self._wait_budget.limit)
        return held

    def _serve(self, schema: Schema) -> None:
        ahead, invalid = schema.state is SchemaState.AHEAD, self._tracker.status.invalid_indexes
        warnings = ([explain(schema)] if ahead else []) + ([invalid_index_advice(invalid)] if invalid else [])
        self._done("; ".join(warnings) or None)
        text, last = ": ".join(filter(None, (self._scope.name, explain(schema)))), len(self._scopes) == 1
        words, event = ("Ready", "ready") if last else ("Verified", "schema_verified")
        if last or not self._looks:
            log.log(logging.WARNING if ahead else logging.INFO, "%s: %s", words, text, extra={"event": event})

    def _done(self, message: str | None) -> None:
        self._tracker.note(message=message, lock_status=LockStatus())
        if len(self._scopes) == 1:
            self._tracker.move(Phase.READY)
