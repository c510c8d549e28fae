"""Errors as RFC 9457 `application/problem+json`.

A route class for the ledger's own errors, which have kinds; `application` handles what no route serves.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive

from .errors import DatabaseUnavailable, LedgerError, shown

_log = logging.getLogger(__name__)

_RETRY_AFTER_SECONDS = 1

# several times the largest valid transaction
_LARGEST_BODY_BYTES = 256 * 1024


class ProblemResponse(JSONResponse):
    """A problem document."""

    media_type = "application/problem+json"


class ProblemRoute(APIRoute):
    """A route whose errors, and FastAPI's, are problem documents."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return FastAPI's handler, with its exceptions turned into answers."""
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                return await handle(Request(request.scope, _limited(request.receive)))
            except LedgerError as error:
                return _refusal(error)
            except RequestValidationError as error:
                return _invalid(error.errors())
            except HTTPException as error:
                return plain(error)

        return answer


def _limited(receive: Receive) -> Receive:
    """Return `receive` with a size limit. Starlette answers FastAPI's `max_body_size` with plain text."""
    received = 0

    async def receive_limited() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > _LARGEST_BODY_BYTES:
            # the only exception that FastAPI passes on while it reads a body
            raise HTTPException(413, f"The body is larger than {_LARGEST_BODY_BYTES} bytes.")
        return message

    return receive_limited


def _problem(
    status: int, kind: str, title: str, detail: str, *, headers: Mapping[str, str] | None = None, **more: object
) -> ProblemResponse:
    content = {"type": f"urn:ledger:problem:{kind}", "title": title, "status": status, "detail": detail, **more}
    return ProblemResponse(content, status, headers)


def _refusal(error: LedgerError) -> ProblemResponse:
    headers = {}
    if isinstance(error, DatabaseUnavailable):
        _log.warning("ledger.database_unavailable", extra={"reason": error.reason})
        headers["Retry-After"] = str(_RETRY_AFTER_SECONDS)
    return _problem(error.status, error.kind, error.title, str(error), headers=headers)


def _invalid(errors: Sequence[Mapping[str, Any]]) -> ProblemResponse:
    if errors[0]["type"] == "json_invalid":
        position, reason = errors[0]["loc"][-1], errors[0]["ctx"]["error"]
        detail = f"The body is not JSON: {reason}, at character {position}."
        return _problem(400, "malformed-body", "The body cannot be read", detail)
    faults = [_fault(error) for error in errors]
    detail = "; ".join(f"{fault['at']}: {fault['detail']}" for fault in faults[:3])
    more = f"; and {len(faults) - 3} more" if len(faults) > 3 else ""
    return _problem(
        422, "invalid-request", "The request does not have the expected form", f"{detail}{more}.", errors=faults
    )


def _fault(error: Mapping[str, Any]) -> dict[str, str]:
    """Return an entry of `errors`: the place (`body/postings/0/amount`), the error and the value."""
    # a missing member has no value; pydantic would show the whole body
    value = "" if error["type"] == "missing" else f", not {shown(error['input'])}"
    return {"at": "/".join(str(part) for part in error["loc"]), "detail": f"{error['msg']}{value}"}


def plain(error: HTTPException) -> ProblemResponse:
    """Return an error that has no kind of its own."""
    title = HTTPStatus(error.status_code).phrase
    return _problem(error.status_code, "http", title, str(error.detail), headers=error.headers)


async def crashed(_request: Request, _error: Exception) -> Response:
    """Answer 500 without the exception, which the server logs."""
    return plain(HTTPException(500, "The service has a bug; its log has the exception."))
