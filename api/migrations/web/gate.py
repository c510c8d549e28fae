"""The gate in front of the service: 503 until the schema is verified."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, MutableMapping, Sequence
from typing import Any

from starlette.middleware import Middleware
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from ..core.status import Status

NO_STORE = {"Cache-Control": "no-store"}
RETRY_AFTER_SECONDS = 2
RETRY_LATER = {**NO_STORE, "Retry-After": str(RETRY_AFTER_SECONDS)}
SERVICE_RESTART = 1012
"""The close code of a WebSocket (RFC 6455's registry at IANA)."""


class Gate:
    """Answers 503, except on `open_paths`, until the instance is ready; then passes every request on.

    The 503 passes through `cors`, the application's CORSMiddleware: without its headers a browser shows a script no
    status, only a network error. No other middleware of the application runs before the gate opens.

    `late_state` is the state of the lifespans that started after the server had copied the lifespan's state.
    """

    def __init__(
        self, app: ASGIApp, read: Callable[[], Status], open_paths: Collection[str], cors: Sequence[Middleware] = ()
    ) -> None:
        self.app = app
        self._read = read
        self._refuse: ASGIApp = self._answer_503
        for middleware, arguments, options in reversed(cors):
            self._refuse = middleware(self._refuse, *arguments, **options)
        self.shut(open_paths)

    def shut(self, open_paths: Collection[str]) -> None:
        """Let only `open_paths` pass until `open()`, at each start of the application."""
        self.late_state: MutableMapping[str, Any] = {}
        self._open_paths = frozenset(open_paths)
        self._open = False

    @property
    def is_open(self) -> bool:
        """Whether all requests pass."""
        return self._open

    def open(self) -> None:
        """Let all requests pass from now on."""
        self._open = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        if self._open and scope["type"] != "lifespan":
            scope.setdefault("state", {}).update(self.late_state)
        if self._open or scope["type"] == "lifespan" or _path(scope) in self._open_paths:
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": SERVICE_RESTART, "reason": "not ready: migrating"})
        else:
            await self._refuse(scope, receive, send)

    async def _answer_503(self, scope: Scope, receive: Receive, send: Send) -> None:
        await _problem(self._read(), scope["path"])(scope, receive, send)


def _problem(status: Status, path: str) -> Response:
    body = {
        "type": "about:blank",
        "title": "Service Unavailable",
        "status": 503,
        # without the reason, which only the health endpoints show
        "detail": f"This instance is not ready ({status.phase}); retry after {RETRY_AFTER_SECONDS} s.",
        "instance": path,
        "phase": status.phase,
    }
    return Response(json.dumps(body), 503, RETRY_LATER, "application/problem+json")


def _path(scope: Scope) -> str:
    path = str(scope["path"]).removeprefix(scope.get("root_path", ""))
    return path.rstrip("/") or "/"
