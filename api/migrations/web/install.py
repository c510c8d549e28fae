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
from ..settings import MigrationSettings
from .gate import Gate
from .health import routes


def install(app: Starlette, tracker: Tracker, settings: MigrationSettings) -> Gate:
    """Put a shut gate in front of `app` and the endpoints before its routes; a restarted `app` keeps its gate, shut."""
    read = partial(_shown, app)
    taken = {getattr(route, "path", None) for route in app.router.routes}
    # before the application's routes, because a catch-all route would swallow the probes
    app.router.routes[:0] = [route for route in _endpoints(read) if route.path not in taken]
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
    is_open = app.state.migrations_gate.is_open
    return replace(status, phase=Phase.VERIFYING) if status.ready and not is_open else status


def _endpoints(read: Callable[[], Status]) -> list[Route]:
    # prometheus-client is optional, and imported at the first request; without it /metrics does not exist
    if find_spec("prometheus_client") is None:
        return routes(read)
    return [*routes(read), metrics_route(read)]


def metrics_route(read: Callable[[], Status]) -> Route:
    """Return the route `/metrics`, which needs `prometheus-client`."""

    @cache
    def exposition() -> Callable[[Request], Response]:
        from .metrics import exposition

        return exposition(read)

    async def metrics(request: Request) -> Response:
        return exposition()(request)

    return Route("/metrics", metrics)
