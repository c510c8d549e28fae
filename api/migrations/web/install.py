"""What stands in front of an application: the gate, the health endpoints and the metrics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

from starlette.applications import Starlette
from starlette.routing import Route

from ..core.status import Phase, Status, Tracker
from ..settings import MigrationSettings
from .gate import Gate
from .health import routes


def install(app: Starlette, tracker: Tracker, settings: MigrationSettings) -> Gate:
    """Put the gate in front of everything else in `app`, shut, and the endpoints in front of its routes.

    An application that is started again keeps its gate, which is shut again.
    """

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
