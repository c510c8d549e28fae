"""Views of the status: `/health/live`, `/health/ready`, `/health/migrations`, and the gate in front of the service.

`/health/migrations` is JSON, and a page for a browser.

They read memory, never the database: a probe must not add load to a database in trouble, nor wait for it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, MutableMapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from ..core.schema import Schema, SchemaState
from ..core.status import Phase, Status
from .status_page.page import prefers_html, render
from .status_page.style import HEADERS as PAGE_HEADERS

RETRY_AFTER_SECONDS = 2
_HEADERS = {"Cache-Control": "no-store"}
_SERVICE_RESTART = 1012

Read = Callable[[], Status]


def verdict(status: Status) -> str:
    """`pass`, `warn` or `fail`; the first two are served with 200."""
    if not status.ready:
        return "fail"
    return "warn" if status.schema.state is SchemaState.AHEAD or status.invalid_indexes else "pass"


def body(status: Status) -> dict[str, Any]:
    """What `/health/migrations` shows. No URL, password or SQL in it."""
    schema, progress, statement = status.schema, status.progress, status.lock_status.statement
    return {
        "status": verdict(status),
        "state": schema.state,
        "phase": status.phase,
        "message": status.message,
        "strategy": status.strategy,
        "instance": status.instance,
        "release": status.release,
        "database": {
            "dialect": status.dialect,
            "reachable": status.reachable,
            "revisions": sorted(schema.revisions),
        },
        "expected_heads": sorted(schema.heads),
        **({"schemas": {name: _schema(one) for name, one in status.schemas.items()}} if status.schemas else {}),
        "pending": {"count": len(schema.pending), "revisions": list(schema.pending)},
        "progress": {
            "applied": progress.applied,
            "total": progress.total,
            "current": progress.current,
            "started_at": _moment(progress.started_at),
            "elapsed_seconds": _elapsed(status),
            "attempt": progress.attempt,
            "next_try_at": _moment(progress.next_try_at),
            "statement": None if statement is None else asdict(statement),
        },
        "lock": _lock(status),
        "blocked_by": [asdict(blocker) for blocker in status.lock_status.blocked_by],
        "fleet": [{**asdict(member), "since": _moment(member.since)} for member in status.lock_status.fleet],
        "invalid_indexes": list(status.invalid_indexes),
        "last_run": _last_run(status),
    }


def _schema(schema: Schema) -> dict[str, Any]:
    return {"state": schema.state, "revisions": sorted(schema.revisions), "pending": len(schema.pending)}


def routes(read: Read) -> list[Route]:
    """The three endpoints, reading the status through `read`."""

    async def live(request: Request) -> Response:
        return JSONResponse({"status": "pass"}, headers=_HEADERS)

    async def ready(request: Request) -> Response:
        status = read()
        return _answer(status, {"status": verdict(status), "phase": status.phase, "message": status.message})

    async def migrations(request: Request) -> Response:
        status = read()
        html = prefers_html(",".join(request.headers.getlist("accept")))
        answer = _page(status) if html else _answer(status, body(status))
        answer.headers["Vary"] = "Accept"
        return answer

    return [
        Route("/health/live", live),
        Route("/health/ready", ready),
        Route("/health/migrations", migrations),
    ]


class Gate:
    """Answers 503 to everything but `open_paths` until the instance is ready; then it only passes on.

    `late_state` is what a lifespan that started after readiness yielded: servers copy the lifespan's state
    into each request before that was known.
    """

    def __init__(self, app: ASGIApp, read: Read, open_paths: Collection[str]) -> None:
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
            await send({"type": "websocket.close", "code": _SERVICE_RESTART, "reason": "not ready: migrating"})
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
    return Response(json.dumps(body), 503, _retry(), "application/problem+json")


def _answer(status: Status, content: dict[str, Any]) -> Response:
    return JSONResponse(content, 200, _HEADERS) if status.ready else JSONResponse(content, 503, _retry())


def _page(status: Status) -> Response:
    headers = _HEADERS if status.ready else _retry()
    return HTMLResponse(render(status, time.time()), 200 if status.ready else 503, {**headers, **PAGE_HEADERS})


def _retry() -> dict[str, str]:
    return {**_HEADERS, "Retry-After": str(RETRY_AFTER_SECONDS)}


def _path(scope: Scope) -> str:
    path = str(scope["path"]).removeprefix(scope.get("root_path", ""))
    return path.rstrip("/") or "/"


def _lock(status: Status) -> dict[str, Any]:
    holder, waiting = status.lock_status.holder, status.waiting_since
    return {
        "key": status.lock_key,
        "held": status.phase is Phase.MIGRATING,
        "holder": None if holder is None else {**asdict(holder), "since": _moment(holder.since)},
        "waited_seconds": round(time.time() - waiting, 3) if waiting and status.phase is Phase.WAITING else 0,
    }


def _last_run(status: Status) -> dict[str, Any] | None:
    run = status.last_run
    if run is None:
        return None
    return {
        "result": run.result,
        "started_at": _moment(run.started_at),
        "finished_at": _moment(run.finished_at),
        "applied": list(run.applied),
        "instance": run.instance,
        "error": run.error,
    }


def _elapsed(status: Status) -> float | None:
    seconds = status.run_seconds(time.time())
    return None if seconds is None else round(seconds, 3)


def _moment(epoch_seconds: float | None) -> str | None:
    return None if epoch_seconds is None else datetime.fromtimestamp(epoch_seconds, UTC).isoformat()
