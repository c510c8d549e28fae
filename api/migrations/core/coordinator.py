"""Who migrates and who waits: the only loop. It knows the protocols and no backend.

Read, lock, read again, migrate, read on a fresh connection, then be ready. Those who do not get the lock watch the
schema's version rather than the lock, and a timeout never means "start anyway".
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TypeVar

from ..errors import (
    AlreadyFailed,
    ConfigurationError,
    ConnectionLost,
    DatabaseUnreachable,
    LockContended,
    MigrationError,
    RevisionFailed,
    SchemaRefused,
)
from .clock import Clock
from .decision import Action, AttemptHistory, Policy, assess_attempts, decide
from .protocols import MigrationRequest, MigrationSession
from .reporter import ProgressReporter
from .retries import Attempt, Retries, record
from .run_timeout import ran_out_of_time, within_budget
from .schema import CodeRevisions, Schema, SchemaState, compare_with_build, explain, invalid_index_advice
from .status import LockStatus, Phase, Progress, Tracker
from .wait_budget import WaitBudget

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True)
class Scope:
    """One version table: the sessions that look at it and migrate it, and this build's revisions for it."""

    sessions: Callable[[], MigrationSession]
    code: CodeRevisions
    schema: str | None = None
    """The schema of the version table, where env.py runs the revisions for several; one after the other."""


class Coordinator:
    """Brings one instance to a verified schema, whichever instance migrates.

    Args:
        scopes: the version tables. None of them, or one that the settings name and `inspect` may correct.
        tracker: where progress and outcome are shown.
        policy: the settings that decide.
        clock: time.
        inspect: asks env.py for the version tables. It is called once, before any lock, unless the scope of the
            settings is found at head: nothing there can be run twice, and a start at head stays cheap.
    """

    def __init__(
        self,
        scopes: Sequence[Scope],
        tracker: Tracker,
        policy: Policy,
        clock: Clock,
        inspect: Callable[[], Awaitable[Sequence[Scope]]] | None = None,
    ) -> None:
        self._scopes = list(scopes)
        self._inspect = inspect
        self._tracker = tracker
        self._policy = policy
        self._clock = clock
        self._reporter = ProgressReporter(tracker)
        self._wait_budget = WaitBudget(tracker, policy, clock)
        self._retries = Retries(self._wait_budget, self._reporter, self._record)
        self._lineage: Mapping[str, frozenset[str]] = {}

    async def become_ready(self) -> None:
        """Return when the schema is verified; the tracker is then `ready`.

        Raises:
            MigrationError: it cannot be, or was not within the wait budget; the tracker is then `failed`.
        """
        await self._persist(self._reach_heads)

    async def execute(self, request: MigrationRequest) -> None:
        """Carry out `request` under the lock, waiting for the lock within the wait budget.

        Raises:
            MigrationError: it was not carried out.
        """
        await self._persist(lambda: self._execute_in_each(request))

    async def _persist(self, attempt: Attempt) -> None:
        self._tracker.move(Phase.CHECKING)
        try:
            await self._retries.until_done(attempt)
        except MigrationError as error:
            if self._scopes and self._schema_name is not None:
                error.name_schema(self._schema_name)
            self._tracker.move(Phase.FAILED, message=str(error))
            raise

    async def _with_session(self, attempt: Callable[[MigrationSession], Awaitable[T]]) -> T:
        session = self._sessions()
        try:
            await session.open()
            return await attempt(session)
        finally:
            await session.close()

    async def _record(self, error: ConnectionLost, failure: RevisionFailed) -> None:
        await self._with_session(lambda session: record(session, error, failure, self._code, self._tracker.status))

    async def _reach_heads(self) -> None:
        while self._scopes or self._inspect is not None:
            reached: bool = bool(self._scopes) and await self._with_session(self._reach_head)
            if reached:
                self._scopes.pop(0)
            elif self._inspect is not None:
                # without a session: env.py's imports may take a minute
                self._scopes, self._inspect = list(await self._inspect()), None

    async def _execute_in_each(self, request: MigrationRequest) -> None:
        while self._scopes:
            await self._with_session(lambda session: self._execute(session, request))
            self._scopes.pop(0)

    async def _reach_head(self, session: MigrationSession) -> bool:
        """Return True at the end, or False where env.py has to be asked first."""
        while True:
            try:
                schema = await self._look(session)
            except ConfigurationError:
                # the tables that the settings name are other ones; env.py may name the right ones
                if self._inspect is None:
                    raise
                return False
            if schema.state is not SchemaState.AT_HEAD and self._inspect is not None:
                return False
            self._inspect = None
            attempt_history = await self._attempt_history(session, schema)
            action = decide(schema, self._policy, attempt_history=attempt_history)
            if action is Action.TRY_LOCK:
                await session.store.check_ids(MigrationRequest("upgrade", self._policy.target), schema.revisions)
                if await session.try_lock():
                    schema, attempt_history, action = await self._take_charge(session)
            if action not in {Action.TRY_LOCK, Action.WAIT}:
                self._conclude(action, schema, attempt_history)
                return True
            await self._wait_budget.wait(session, schema, attempt_history)

    async def _take_charge(self, session: MigrationSession) -> tuple[Schema, AttemptHistory, Action]:
        schema = await self._look(session)
        attempt_history = await self._attempt_history(session, schema)
        action = decide(schema, self._policy, locked=True, attempt_history=attempt_history)
        held = True
        if action is Action.MIGRATE:
            held = await self._migrate(session, MigrationRequest("upgrade", self._policy.target))
            schema = await self._verify()
            action = decide(schema, self._policy, locked=held)
        if held:
            await session.unlock()
        else:
            # it was closed with the lock, and whoever waits needs it
            await session.open()
        return schema, attempt_history, action

    async def _execute(self, session: MigrationSession, request: MigrationRequest) -> None:
        schema = await self._look(session)
        await session.store.check_ids(request, schema.revisions)
        while not await session.try_lock():
            await self._wait_budget.wait(session, schema, AttemptHistory())
            schema = await self._look(session)
        schema = await self._look(session)
        unclear = {SchemaState.AHEAD, SchemaState.DIVERGED, SchemaState.DIRTY}
        if schema.state in unclear and request.kind in {"upgrade", "downgrade"}:
            raise SchemaRefused(explain(schema))
        if request.repairs is not None:
            await _refuse_if_settled(session, request.repairs)
        # what the looks inferred is an upgrade to the heads, and somebody else's
        self._tracker.note(progress=Progress())
        try:
            held = await self._migrate(session, request)
            schema = await self._verify()
            if held:
                await session.unlock()
        except DatabaseUnreachable as error:
            if not request.relative:
                raise
            raise MigrationError(
                f"{error}; it is not known whether the last step was committed, and the relative target "
                f"{request.target} is not repeated. To fix: look with './migrate.sh status', then name the revision"
            ) from error
        self._done(explain(schema))

    async def _look(self, session: MigrationSession) -> Schema:
        await session.open()
        observed = await session.store.observe()
        if observed.revisions - self._code.parents.keys():
            self._lineage = await session.store.lineage()
        schema = compare_with_build(observed, self._code, self._lineage)
        seen = {"last_success": observed.last_success, "last_failure": observed.last_failure}
        self._tracker.note(**seen, recent=observed.recent)
        # half applied is shown only once the lock proves it: until then somebody may be at it
        self._show(compare_with_build(replace(observed, half_applied=()), self._code, self._lineage))
        self._wait_budget.answered()
        return schema

    def _show(self, schema: Schema) -> None:
        self._tracker.note(schema=schema, reachable=True)
        if self._schema_name is not None:
            self._tracker.note(schemas={**self._tracker.status.schemas, self._schema_name: schema})
        if self._tracker.status.phase is not Phase.VERIFYING:
            self._reporter.saw(schema)

    async def _attempt_history(self, session: MigrationSession, schema: Schema) -> AttemptHistory:
        if not schema.pending:
            return AttemptHistory()
        attempts = await session.store.attempts(schema.pending)
        return assess_attempts(attempts, self._policy, self._wait_budget.lived_seconds)

    async def _migrate(self, session: MigrationSession, request: MigrationRequest) -> bool:
        """Carry it out; returns whether the lock is still held."""
        self._tracker.move(Phase.MIGRATING, message=None, lock_status=await session.lock_status())
        beside = self._sessions()
        held = True
        try:
            await session.back_up_if_requested(request)
            async with within_budget(beside, self._tracker, self._policy.run_seconds):
                await session.run(request, self._reporter)
        except TimeoutError as error:
            await self._overran(session, beside, request, error)
            held = False
        except (DatabaseUnreachable, LockContended) as error:
            self._retries.broken_off(error, self._schema_name)
            raise
        except MigrationError as error:
            self._reporter.ended("failed", str(error))
            # wakes those who wait, so that they learn of the failure now and do not repeat it
            with suppress(MigrationError):
                await session.unlock()
            raise
        finally:
            await beside.close()
        self._reporter.ended("applied")
        self._tracker.move(Phase.VERIFYING, lock_status=LockStatus())
        return held

    async def _overran(
        self, session: MigrationSession, beside: MigrationSession, request: MigrationRequest, error: TimeoutError
    ) -> None:
        """Return with the session closed where all of it is committed; else raise what became of it."""
        seconds = self._policy.run_seconds
        trouble = await ran_out_of_time(beside, self._tracker.status, seconds, request, self._code)
        if isinstance(trouble, DatabaseUnreachable):
            self._reporter.interrupted()
        elif trouble is not None:
            self._reporter.ended("failed", str(trouble))
        if trouble is not None:
            raise trouble from error
        words = "Everything was committed when the run was cancelled at the end of MIGRATION_RUN_SECONDS=%g"
        log.warning(words, seconds, extra={"event": "run_ended_late"})
        await session.close()

    async def _verify(self) -> Schema:
        session = self._sessions()
        try:
            return await self._look(session)
        finally:
            await session.close()

    def _conclude(self, action: Action, schema: Schema, attempt_history: AttemptHistory) -> None:
        if action is Action.SERVE:
            return self._serve(schema)
        failure = attempt_history.failure
        if action is Action.GIVE_UP and failure is not None:
            raise AlreadyFailed(
                f"{failure.error} (on instance {failure.instance}, while this one waited; it is not run again here; "
                "a later start tries again)",
                revision=failure.revision,
            )
        if action is Action.REFUSE:
            self._tracker.note(schema=schema)
            raise SchemaRefused(explain(schema))
        raise MigrationError(f"Alembic reported success, but {explain(schema)}; env.py does not run what it is given")

    def _serve(self, schema: Schema) -> None:
        ahead, invalid = schema.state is SchemaState.AHEAD, self._tracker.status.invalid_indexes
        warnings = ([explain(schema)] if ahead else []) + ([invalid_index_advice(invalid)] if invalid else [])
        self._done("; ".join(warnings) or None)
        if len(self._scopes) > 1:
            log.info("Schema %s: %s", self._schema_name, explain(schema), extra={"event": "schema_verified"})
            return
        log.log(logging.WARNING if ahead else logging.INFO, "Ready: %s", explain(schema), extra={"event": "ready"})

    def _done(self, message: str | None) -> None:
        self._tracker.note(message=message, lock_status=LockStatus())
        if len(self._scopes) == 1:
            self._tracker.move(Phase.READY)

    @property
    def _sessions(self) -> Callable[[], MigrationSession]:
        return self._scopes[0].sessions

    @property
    def _code(self) -> CodeRevisions:
        return self._scopes[0].code

    @property
    def _schema_name(self) -> str | None:
        return self._scopes[0].schema


async def _refuse_if_settled(session: MigrationSession, revision: str) -> None:
    # what looked half applied before the lock may have been at work
    if revision not in {half.revision for half in (await session.store.observe()).half_applied}:
        raise MigrationError(
            f"revision {revision} is not half applied any more: whoever was at it has finished, or somebody repaired "
            "it; nothing was changed; look with './migrate.sh status'"
        )
