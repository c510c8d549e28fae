"""Installs the gate, the health endpoints and the metrics in front of an application."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from importlib.util import find_spec
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ..core.status import Phase, Status, Tracker
from ..errors import in_full, in_public
from ..settings import MigrationSettings
from .gate import Gate
from .health import Refuse, refuse_none, routes


def install(app: Starlette, tracker: Tracker, settings: MigrationSettings) -> Gate:
    """Put a shut gate in front of `app` and the endpoints before its routes; a restarted `app` keeps its gate, shut."""
    read, refuse = partial(_shown, app), partial(_refused, app)
    taken = {getattr(route, "path", None) for route in app.router.routes}
    # before the application's routes, because a catch-all route would swallow the probes
    app.router.routes[:0] = [route for route in _endpoints(read, refuse) if route.path not in taken]
    # the middleware stack is built before the lifespan runs, so add_middleware would be too late
    stack = app.middleware_stack or app.build_middleware_stack()
    gate = _gate_in(stack)
    if gate is not None:
        gate.shut(settings.open_paths)
    else:
        if former := getattr(app.state, "migrations_gate", None):
            # it may still be in the stack, inside a middleware without an attribute `app`
            former.late_state = {}
        app.middleware_stack = gate = Gate(stack, read, settings.open_paths, _cors(app))
    # tests start an application several times; the endpoints show the current start
    app.state.migrations, app.state.migrations_gate = tracker, gate
    app.state.migrations_shown = in_full if settings.show_errors else in_public
    app.state.migrations_refuse = _guard(settings)
    return gate


def _cors(app: Starlette) -> list[Middleware]:
    # by the name of its module, because an import would cost every start
    return [
        middleware
        for middleware in app.user_middleware
        if any(kind.__module__ == "starlette.middleware.cors" for kind in getattr(middleware.cls, "__mro__", ()))
    ]


def _gate_in(stack: Any) -> Gate | None:
    # the gate of an earlier start, which an instrumentation library may have wrapped since
    seen: list[Any] = []
    while stack is not None and not isinstance(stack, Gate) and stack not in seen:
        seen.append(stack)
        stack = getattr(stack, "app", None)
    return stack if isinstance(stack, Gate) else None


def _shown(app: Starlette) -> Status:
    status: Status = app.state.migrations.status
    # ready means that requests pass: the application's own lifespan may start slowly after the schema is verified
    phase = status.phase if app.state.migrations_gate.is_open or not status.ready else Phase.VERIFYING
    shown: Callable[[str], str] = app.state.migrations_shown
    run = status.last_run and replace(status.last_run, error=status.last_run.error and shown(status.last_run.error))
    return replace(status, phase=phase, message=status.message and shown(status.message), last_run=run)


def check_token(settings: MigrationSettings) -> None:
    """Raise `ConfigurationError` if the settings have a token that cannot be used."""
    if _has_token(settings):
        from .token import token_of

        token_of(settings)


def _has_token(settings: MigrationSettings) -> bool:
    return not (settings.health_token is None and settings.health_token_file is None)


def _guard(settings: MigrationSettings) -> Refuse:
    if not _has_token(settings):
        return refuse_none
    from .token import TokenGuard  # a start without a token does not need it

    return TokenGuard.of(settings)


def _refused(app: Starlette, request: Request) -> Response | None:
    refuse: Refuse = app.state.migrations_refuse
    return refuse(request)


def _endpoints(read: Callable[[], Status], refuse: Refuse) -> list[Route]:
    # prometheus-client is optional, and imported at the first request; without it /metrics does not exist
    if find_spec("prometheus_client") is None:
        return routes(read, refuse)
    return [*routes(read, refuse), metrics_route(read, refuse)]


def metrics_route(read: Callable[[], Status], refuse: Refuse = refuse_none) -> Route:
    """Return the route `/metrics`, which needs `prometheus-client`; `refuse` answers callers that may not read it."""

    @cache
    def exposition() -> Callable[[Request], Response]:
        from .metrics import exposition

        return exposition(read)

    async def metrics(request: Request) -> Response:
        return refuse(request) or exposition()(request)

    return Route("/metrics", metrics)
