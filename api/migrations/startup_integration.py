"""The lifespan: `app = FastAPI(lifespan=lifespan_with_migrations)`.

uvicorn listens only after the lifespan's start. In mode `gate` the start therefore returns at once, so that probes are
answered during the migration. In mode `block` it waits for the schema.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, nullcontext, suppress
from functools import partial
from typing import Any, Self

from starlette.applications import Starlette

from . import logs
from .core.status import IllegalMove, Phase, Tracker
from .errors import ConfigurationError, MigrationError
from .execution.error_translation import describe
from .execution.hooks import Function
from .parts import new_tracker, settings_of_failed_start
from .runtime import streams
from .runtime.process_end import end_process
from .runtime.thread import MigrationThread, Settled
from .settings import MigrationSettings
from .settings.unread import warn_of_unread_settings
from .startup import migrate_or_hold
from .text.printable import printable
from .web.gate import Gate
from .web.install import check_token, install
from .web.nested_lifespans import Lifespan, deferred, leaves, mounted, suited_to, together, wrappers

log = logging.getLogger(__name__)

Service = AbstractAsyncContextManager[Mapping[str, Any] | None]

CANCEL_SECONDS = 1.5
"""How long shutdown waits for a run to roll back; after that the process exits, and the server rolls back."""

_NEVER_STARTED = (
    "The application mounted at {path} has a lifespan_with_migrations with settings of its own, but no server runs the "
    "lifespan of a mounted application. Its database is not migrated, and it answers 503. To fix: run its lifespan in "
    "the one around it: lifespan_with_migrations.then(lambda _: mounted.router.lifespan_context(mounted))"
)

Settings = MigrationSettings | Sequence[MigrationSettings]


class MigrationLifespan:
    """A lifespan that lets the service serve only on a verified schema.

    Use it as it is, or `lifespan_with_migrations.then(yours)`, or `lifespan_with_migrations(settings=…, then=yours)`.
    Your lifespan starts after the schema is verified. The instance that migrates calls `before` before the first
    revision, and `after` once for each new head, on the session that holds the lock.

    `settings` may be a list, one for each database: each has its own lock, version table and history. The instance
    serves when all are verified. Start-up mode, `on_failure`, wait budget, drain and open paths are those of the first.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        then: Lifespan | None = None,
        before: Function | None = None,
        after: Function | None = None,
    ) -> None:
        self._settings = [settings] if isinstance(settings, MigrationSettings) else list(settings or ())
        self._then = then
        self._before = before
        self._after = after

    def __call__(
        self,
        app: Any = None,
        *,
        settings: Settings | None = None,
        then: Lifespan | None = None,
        before: Function | None = None,
        after: Function | None = None,
    ) -> Any:
        """Return the lifespan context of `app`; without `app`, a lifespan with these arguments instead of its own."""
        if app is not None:
            return _lifespan(app, self, self._settings, self._then)
        others = (before or self._before, after or self._after)
        return type(self)(settings or self._settings, then or self._then, *others)

    def then(self, lifespan: Lifespan) -> Self:
        """Return this lifespan with `lifespan` after it."""
        return type(self)(self._settings, lifespan, self._before, self._after)


lifespan_with_migrations = MigrationLifespan()


def json_logs_from_here(settings: MigrationSettings | None = None) -> None:
    """If MIGRATION_LOG_FORMAT=json, log in JSON from now on: a server logs lines before it enters the lifespan."""
    log_settings = settings or MigrationSettings.load_partial("log_format", "log_level", "instance", "release")
    if log_settings.log_format == "json":
        logs.configure(log_settings, new_tracker(log_settings))


@asynccontextmanager
async def _lifespan(
    app: Starlette, ours: MigrationLifespan, given: Sequence[MigrationSettings], then: Lifespan | None
) -> AsyncIterator[Mapping[str, Any] | None]:
    streams.occupy()
    log_settings = given[0] if given else MigrationSettings.load_partial("log_format", "log_level")
    settings, problem = _settled(given)
    tracker = new_tracker(settings)
    logs.configure(log_settings, tracker)
    logs.bind_log_context(tracker)
    if not given:
        warn_of_unread_settings()
    gate = install(app, tracker, settings)
    policy = suited_to(wrappers(app.router.lifespan_context, ours), settings)
    databases, settled = given or [settings], Settled()
    failed = settled.tell if policy.on_failure == "hold" else None
    work = partial(migrate_or_hold, databases, tracker, problem, ours._before, ours._after, failed)
    thread = MigrationThread(work)
    thread.outcome.add_done_callback(settled.tell)
    with deferred(app.router.lifespan_context, ours) as nested:
        service = _service(app, gate, [*([then] if then else []), *nested], settings)
        thread.start()
        async with _stopped_at_exit(thread), _started(tracker, gate, thread, settled, service, policy) as state:
            yield state


@asynccontextmanager
async def _started(
    tracker: Tracker,
    gate: Gate,
    thread: MigrationThread,
    settled: Settled,
    service: Service,
    settings: MigrationSettings,
) -> AsyncIterator[Mapping[str, Any] | None]:
    if settings.startup_mode == "block":
        await settled.wait()
        if tracker.status.ready or settings.on_failure == "exit":
            await _outcome(thread, tracker)
            async with service as state:
                yield state
            return
    # in mode `block` only a held instance comes here
    stop = asyncio.Event()
    async with _in_background(_serve_when_ready(tracker, gate, thread, service, settings, stop), gate, stop):
        yield None


@asynccontextmanager
async def _service(
    app: Starlette, gate: Gate, lifespans: Sequence[Lifespan], settings: MigrationSettings
) -> AsyncIterator[Mapping[str, Any] | None]:
    # requests pass only after all lifespans have started
    async with together(app, lifespans) as state:
        _refuse_for_mounted(app, settings)
        gate.open()
        with _draining(gate, app.state.migrations, settings):
            yield state


def _draining(gate: Gate, tracker: Tracker, settings: MigrationSettings) -> AbstractContextManager[None]:
    if not settings.drain_seconds:
        return nullcontext()
    from .web.drain import draining  # an instance that stops at once does not need it

    return draining(gate, tracker, settings.drain_seconds)


async def _serve_when_ready(
    tracker: Tracker,
    gate: Gate,
    thread: MigrationThread,
    service: Service,
    settings: MigrationSettings,
    stop: asyncio.Event,
) -> None:
    # one task for the service's whole life, because a context must be left in the task that entered it
    try:
        await _outcome(thread, tracker)
        async with service as state:
            gate.late_state = dict(state or {})
            await stop.wait()
    except Exception as error:
        # the failure of the migration is already logged
        known = isinstance(error, MigrationError)
        ours = known and thread.outcome.exception() is not None
        if not ours:
            message = "The service's own lifespan failed: %s"
            log.error(message, error, exc_info=not known, extra={"event": "lifespan_failed"})
        if stop.is_set():
            return
        if settings.on_failure == "exit" or not ours:
            await end_process()


def _settled(given: Sequence[MigrationSettings]) -> tuple[MigrationSettings, ConfigurationError | None]:
    # an invalid setting is a failed start like any other: the probes show it, and the log has one line
    try:
        settings = given[0] if given else MigrationSettings.load()
        check_token(settings)
    except ConfigurationError as error:
        return given[0] if given else settings_of_failed_start(), error
    return settings, None


def _refuse_for_mounted(app: Starlette, settings: MigrationSettings) -> None:
    # not earlier, because a lifespan that starts before the gate opens may have run the mounted one's
    for path, below in mounted(app.routes):
        merged = leaves(below.router.lifespan_context)
        ours = next((leaf for leaf in merged if isinstance(leaf, MigrationLifespan)), None)
        theirs = settings if ours is None else _settled(ours._settings)[0]
        # with the same settings, this application's gate has waited for the schema
        if theirs != settings and not hasattr(below.state, "migrations"):
            message = _NEVER_STARTED.format(path=path)
            log.error(message, extra={"event": "lifespan_never_started"})
            tracker = new_tracker(theirs)
            tracker.move(Phase.FAILED, message=message)
            install(below, tracker, theirs)


async def _outcome(thread: MigrationThread, tracker: Tracker) -> None:
    try:
        await asyncio.wrap_future(thread.outcome)
    except MigrationError as error:  # it is logged
        error.args = (printable(str(error)),)  # the server prints it too
        raise
    except BaseException as error:
        if not thread.outcome.done() or error is not thread.outcome.exception():
            raise  # this task was cancelled
        log.error("This is a bug in the migrations package", exc_info=error, extra={"event": "bug"})
        message = f"unexpected: {describe(error)}"
        tracker.note(message=message, held=False)
        # or the instance would stay in its last phase for ever
        with suppress(IllegalMove):
            tracker.move(Phase.FAILED)
        raise MigrationError(message) from None


@asynccontextmanager
async def _stopped_at_exit(thread: MigrationThread) -> AsyncIterator[None]:
    try:
        yield
    finally:
        thread.cancel()
        if not await asyncio.to_thread(thread.join, CANCEL_SECONDS):
            message = "The run did not stop within %.1f s; the server will roll it back"
            log.warning(message, CANCEL_SECONDS, extra={"event": "not_stopped"})


@asynccontextmanager
async def _in_background(work: Awaitable[None], gate: Gate, stop: asyncio.Event) -> AsyncIterator[None]:
    task = asyncio.ensure_future(work)
    try:
        yield
    finally:
        # a task that serves is not cancelled: a lifespan's code after its yield needs no try/finally
        stop.set()
        if not gate.is_open:
            task.cancel()
        with suppress(asyncio.CancelledError):
            await task
