"""The probes `/health/live` and `/health/ready`, and `/health/migrations`: JSON, or a page for browsers.

They never query the database: a probe must not load an overloaded database or wait for it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from ..core.schema import Schema, SchemaState
from ..core.scope import by_kind
from ..core.status import LockStatus, Phase, Status
from .accept import prefers_html
from .gate import NO_STORE, RETRY_LATER

Read = Callable[[], Status]
Refuse = Callable[[Request], Response | None]
"""Returns the answer to a caller that may not read more than the probes; None for all others."""

_HAS_PAGE = find_spec(".status_page", __package__) is not None
"""The status page is optional, and is imported at its first request."""


def verdict(status: Status) -> str:
    """Return `pass` or `warn` (HTTP status 200), or `fail` (503)."""
    if not status.ready:
        return "fail"
    ahead = any(schema.state is SchemaState.AHEAD for schema in (status.schema, *status.scopes.values()))
    return "warn" if ahead or status.invalid_indexes else "pass"


def body(status: Status) -> dict[str, Any]:
    """Return the JSON of `/health/migrations`, which contains no URL, password or SQL."""
    schema, progress, statement = status.schema, status.progress, status.lock_status.statement
    return {
        "status": verdict(status),
        "state": schema.state,
        "phase": status.phase,
        "since": _moment(status.since),
        "message": status.message,
        "gives_up": _limit(status),
        "failure": _failure(status),
        "strategy": status.strategy,
        "instance": status.instance,
        "release": status.release,
        "database": {
            "dialect": status.dialect,
            "reachable": status.reachable,
            "unreachable_since": _moment(status.unreachable_since),
            "read_at": _moment(status.read_at),
            "revisions": sorted(schema.revisions),
        },
        "expected_heads": sorted(schema.heads),
        **by_kind({name: _scope(one) for name, one in status.scopes.items()}),
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
        "blocked_since": _moment(status.blocked_since if status.lock_status.blocked_by else None),
        "blocked_by": [asdict(blocker) for blocker in status.lock_status.blocked_by],
        "fleet": [{**asdict(member), "since": _moment(member.since)} for member in status.lock_status.fleet],
        "invalid_indexes": list(status.invalid_indexes),
        "last_run": _last_run(status),
        "advice": _advice(status),
    }


def _advice(status: Status) -> dict[str, Any] | None:
    from ..core.advice import advise  # a start at head needs no advice

    advice = advise(status, time.time())
    return None if advice is None else advice.as_json()


def _scope(schema: Schema) -> dict[str, Any]:
    return {"state": schema.state, "revisions": sorted(schema.revisions), "pending": len(schema.pending)}


def refuse_none(request: Request) -> None:
    """Refuse no caller."""


def routes(read: Read, refuse: Refuse = refuse_none) -> list[Route]:
    """Return the three endpoints; `read` returns the current status.

    A caller that `refuse` refuses gets the probes only, without their message.
    """

    async def live(request: Request) -> Response:
        return _json({"status": "pass"}, 200, NO_STORE)

    async def ready(request: Request) -> Response:
        status = read()
        message = {"message": status.message} if refuse(request) is None else {}
        return _answer(status, {"status": verdict(status), "phase": status.phase, **message})

    async def migrations(request: Request) -> Response:
        if (refusal := refuse(request)) is not None:
            return refusal
        status = read()
        html = _HAS_PAGE and prefers_html(",".join(request.headers.getlist("accept")))
        answer = _page(status) if html else _answer(status, body(status))
        answer.headers["Vary"] = "Accept"
        return answer

    return [Route("/health/live", live), Route("/health/ready", ready), Route("/health/migrations", migrations)]


def _answer(status: Status, content: dict[str, Any]) -> Response:
    return _json(content, 200, NO_STORE) if status.ready else _json(content, 503, RETRY_LATER)


def _json(content: dict[str, Any], code: int, headers: Mapping[str, str]) -> Response:
    # in ASCII: on a terminal, a name of another session could draw over the screen
    return Response(json.dumps(content, separators=(",", ":")), code, headers, "application/json")


def _page(status: Status) -> Response:
    page = import_module(".status_page.page", __package__)
    code, headers = (200, NO_STORE) if status.ready else (503, RETRY_LATER)
    return HTMLResponse(page.render(status, time.time()), code, {**headers, **page.HEADERS})


def _limit(status: Status) -> dict[str, Any] | None:
    limit = status.limit
    if limit is None:
        return None
    return {"at": _moment(limit.at), "seconds": round(max(0.0, limit.at - time.time()), 3), "setting": limit.setting}


def _failure(status: Status) -> dict[str, Any] | None:
    """When the start failed, whether it looks again, and what was last seen before; None unless it has failed."""
    if status.phase is not Phase.FAILED:
        return None
    seen = status.at_failure or LockStatus()
    holder = None if seen.holder is None else {"instance": seen.holder.instance, "pid": seen.holder.pid}
    blocked_by = [asdict(blocker) for blocker in seen.blocked_by]
    return {"at": _moment(status.since), "held": status.held, "last_seen": {"holder": holder, "blocked_by": blocked_by}}


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
    from ..core.countdown import run_seconds  # a start at head does not need it

    seconds = run_seconds(status, time.time())
    return None if seconds is None else round(seconds, 3)


def _moment(epoch_seconds: float | None) -> str | None:
    return None if epoch_seconds is None else datetime.fromtimestamp(epoch_seconds, UTC).isoformat()
