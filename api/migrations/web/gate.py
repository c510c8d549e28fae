"""The gate in front of the service: 503 until the schema is verified."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, MutableMapping
from typing import Any

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from ..core.status import Status

NO_STORE = {"Cache-Control": "no-store"}
RETRY_AFTER_SECONDS = 2
RETRY_LATER = {**NO_STORE, "Retry-After": str(RETRY_AFTER_SECONDS)}
SERVICE_RESTART = 1012
"""The close code of a WebSocket (RFC 6455's registry at IANA)."""


class Gate:
    """Answers 503 to everything but `open_paths` until the instance is ready; then it only passes on.

    `late_state` is what a lifespan that started after readiness yielded: servers copy the lifespan's state
    into each request before that was known.
    """

    def __init__(self, app: ASGIApp, read: Callable[[], Status], open_paths: Collection[str]) -> None:
        self.app = app
        self._read = read
        self.shut(open_paths)

    def shut(self, open_paths: Collection[str]) -> None:
        """From now on only `open_paths` pass, until it is opened: another start begins as the first one did."""
        self.late_state: MutableMapping[str, Any] = {}
        self._open_paths = frozenset(open_paths)
        self._open = False

    @property
    def is_open(self) -> bool:
        """Whether requests pass."""
        return self._open

    def open(self) -> None:
        """From now on everything passes."""
        self._open = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if self._open and scope["type"] != "lifespan":
            scope.setdefault("state", {}).update(self.late_state)
        if self._open or scope["type"] == "lifespan" or _path(scope) in self._open_paths:
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": SERVICE_RESTART, "reason": "not ready: migrating"})
        else:
            await _problem(self._read(), scope["path"])(scope, receive, send)


def _problem(status: Status, path: str) -> Response:
    body = {
        "type": "about:blank",
        "title": "Service Unavailable",
        "status": 503,
        # whoever asks here may be anybody: the reason is for those who see the health endpoints
        "detail": f"This instance is not ready to serve ({status.phase}); try again in a moment.",
        "instance": path,
        "phase": status.phase,
    }
    return Response(json.dumps(body), 503, RETRY_LATER, "application/problem+json")


def _path(scope: Scope) -> str:
    path = str(scope["path"]).removeprefix(scope.get("root_path", ""))
    return path.rstrip("/") or "/"
