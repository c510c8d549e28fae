"""The lifespan: `app = FastAPI(lifespan=lifespan_with_migrations)` is all a service needs.

In mode `gate` the server is up before the migration: uvicorn binds its socket only after the lifespan's start, and
awaited there nothing could answer the probes. In mode `block` the start waits.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import replace
from importlib.util import find_spec
from typing import Any, Self

from starlette.applications import Starlette
from starlette.routing import Route

from . import logs
from .assembly import bring_up, new_tracker
from .errors import ConfigurationError, MigrationError
from .failures import describe
from .health import Gate, routes
from .settings import MigrationSettings
from .state import IllegalMove, Phase, Status, Tracker
from .thread import MigrationThread

log = logging.getLogger(__name__)

Lifespan = Callable[[Any], AbstractAsyncContextManager[Mapping[str, Any] | None]]

CANCEL_SECONDS = 1.5
"""How long shutdown waits for a run to roll back; after that the process goes, and the server rolls back."""


class MigrationLifespan:
    """A lifespan that makes the service ready only on a verified schema.

    Use it as it is, or `lifespan_with_migrations.then(yours)`, or `lifespan_with_migrations(settings=…, then=yours)`;
    yours starts after the schema is ready.
    """

    def __init__(self, settings: MigrationSettings | None = None, then: Lifespan | None = None) -> None:
        self._settings = settings
        self._then = then

    def __call__(
        self, app: Any = None, *, settings: MigrationSettings | None = None, then: Lifespan | None = None
    ) -> Any:
        """With an application: its lifespan context. Without: a lifespan with these settings and successor."""
        if app is not None:
            return _lifespan(app, self._settings, self._then)
        return type(self)(settings or self._settings, then or self._then)

    def then(self, lifespan: Lifespan) -> Self:
        """This lifespan with `lifespan` after it."""
        return type(self)(self._settings, lifespan)


lifespan_with_migrations = MigrationLifespan()


def json_logs_from_here(settings: MigrationSettings | None = None) -> None:
    """Where MIGRATION_LOG_FORMAT=json, begin now: a server writes its first lines before it enters the lifespan."""
    shape = settings or MigrationSettings.partly("log_format", "log_level", "instance", "release")
    if shape.log_format == "json":
        logs.configure(shape, new_tracker(shape))


@asynccontextmanager
async def _lifespan(
    app: Starlette, settings: MigrationSettings | None, then: Lifespan | None
) -> AsyncIterator[Mapping[str, Any] | None]:
    shape = settings or MigrationSettings.partly("log_format", "log_level")
    settings, problem = _settled(settings)
    tracker = new_tracker(settings)
    logs.configure(shape, tracker)
    logs.speak_for(tracker)
    gate = _install(app, tracker, settings)
    thread = MigrationThread(lambda: bring_up(settings, tracker, problem))
    thread.start()
    async with _stopped_at_exit(thread):
        if settings.startup_mode == "gate":
            stop = asyncio.Event()
            async with _in_background(_serve_when_ready(app, gate, thread, then, settings, stop), gate, stop):
                yield None
        elif await _succeeds(thread, tracker, settings):
            async with then(app) if then else _nothing() as state:
                gate.open()
                yield state
        else:
            yield None


async def _serve_when_ready(
    app: Starlette,
    gate: Gate,
    thread: MigrationThread,
    then: Lifespan | None,
    settings: MigrationSettings,
    stop: asyncio.Event,
) -> None:
    # one task for the whole of the successor's life: what it enters must be left in the same task
    try:
        await _outcome(thread, app.state.migrations)
        async with then(app) if then else _nothing() as state:
            gate.late_state = dict(state or {})
            gate.open()
            await stop.wait()
    except Exception as error:
        # a migration that failed has said so itself
        known = isinstance(error, MigrationError)
        ours = known and thread.outcome.exception() is not None
        if not ours:
            message = "The service's own lifespan failed: %s"
            log.error(message, error, exc_info=not known, extra={"event": "lifespan_failed"})
        if stop.is_set():
            return
        if settings.on_failure == "exit" or not ours:
            # the server shuts down in order and the process ends with 143, which every supervisor takes for a failure
            os.kill(os.getpid(), signal.SIGTERM)


def _settled(settings: MigrationSettings | None) -> tuple[MigrationSettings, ConfigurationError | None]:
    # a wrong setting is a failed start like any other: shown by the probes, one line in the log, no traceback
    try:
        return settings or MigrationSettings.load(), None
    except ConfigurationError as error:
        # who it is and how it is to fail count all the same
        return MigrationSettings.partly("instance", "release", "startup_mode", "on_failure"), error


async def _succeeds(thread: MigrationThread, tracker: Tracker, settings: MigrationSettings) -> bool:
    try:
        await _outcome(thread, tracker)
    except MigrationError:
        if settings.on_failure == "exit":
            raise
        return False
    return True


async def _outcome(thread: MigrationThread, tracker: Tracker) -> None:
    try:
        await asyncio.wrap_future(thread.outcome)
    except MigrationError as error:
        log.error("Not ready: %s", error, extra={"event": "failed"})
        raise
    except BaseException as error:
        if not thread.outcome.done() or error is not thread.outcome.exception():
            raise  # whoever waits here was cancelled
        raise _unexpected(error, tracker) from error


def _unexpected(error: BaseException, tracker: Tracker) -> MigrationError:
    # fails as a migration does, or the instance would stand in the phase that it died in for ever
    log.error("This is a bug in the migrations package", exc_info=error, extra={"event": "bug"})
    message = f"unexpected: {describe(error)}"
    tracker.note(message=message)
    with suppress(IllegalMove):
        tracker.move(Phase.FAILED)
    return MigrationError(message)


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
        # once it serves it is asked, not cancelled: what a lifespan does after its yield needs no try/finally
        stop.set()
        if not gate.is_open:
            task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def _install(app: Starlette, tracker: Tracker, settings: MigrationSettings) -> Gate:
    def read() -> Status:
        return _shown(app)

    taken = {getattr(route, "path", None) for route in app.router.routes}
    # in front: an application's catch-all route must not swallow the probes
    app.router.routes[:0] = [route for route in _endpoints(read) if route.path not in taken]
    # the middleware stack is built before the lifespan runs, so add_middleware would be too late
    stack = app.middleware_stack or app.build_middleware_stack()
    gate = _gate_in(stack)
    if gate is not None:
        gate.shut(settings.open_paths)
    else:
        if former := getattr(app.state, "migrations_gate", None):
            # it may be in the stack all the same, inside something that does not show what it wraps
            former.late_state = {}
        app.middleware_stack = gate = Gate(stack, read, settings.open_paths)
    # an application may be started again and again, in tests: what it shows is the start that is going on
    app.state.migrations, app.state.migrations_gate = tracker, gate
    return gate


def _gate_in(stack: Any) -> Gate | None:
    # of an earlier start; what instruments an application may have been wrapped around it since
    seen: list[Any] = []
    while stack is not None and not isinstance(stack, Gate) and stack not in seen:
        seen.append(stack)
        stack = getattr(stack, "app", None)
    return stack if isinstance(stack, Gate) else None


def _shown(app: Starlette) -> Status:
    status: Status = app.state.migrations.status
    # ready is what serves: the schema is verified a moment before the gate opens, or long before a slow successor
    is_open = app.state.migrations_gate.is_open
    return replace(status, phase=Phase.VERIFYING) if status.ready and not is_open else status


def _endpoints(read: Callable[[], Status]) -> list[Route]:
    # prometheus-client is optional, as rich is: without it there is no /metrics
    if find_spec("prometheus_client") is None:
        return routes(read)
    from .metrics import route

    return [*routes(read), route(read)]


@asynccontextmanager
async def _nothing() -> AsyncIterator[None]:
    yield None
