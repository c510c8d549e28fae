"""Adds the ledger to an application, and makes every error of the application a problem document."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.routing import Match

from .problems import ProblemResponse, crashed, plain
from .routes import router

_METHODS = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")
_LIMITS = ("minimum", "exclusiveMaximum")


def add_ledger(app: FastAPI) -> None:
    """Add the endpoints to `app`; its 404, 405 and 500 become problem documents, also outside the ledger."""
    app.include_router(router)
    # Starlette takes the host of its redirect from the request: the client could be sent anywhere
    app.router.redirect_slashes = False
    app.add_exception_handler(HTTPException, _unserved)
    app.add_exception_handler(Exception, crashed)
    app.openapi = _corrected(app.openapi)  # type: ignore[method-assign]


async def _unserved(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code != 405:
        return plain(error)
    # Starlette answers with the methods of one route, and a path may have several routes
    allow = {"Allow": ", ".join([*_methods_of(request), "OPTIONS"])}
    if request.method == "OPTIONS":
        return Response(status_code=204, headers=allow)
    return plain(HTTPException(405, f"{request.url.path} has no {request.method}.", allow))


def _methods_of(request: Request) -> list[str]:
    routes = request.app.router.routes
    return [
        method
        for method in _METHODS
        if any(route.matches({**request.scope, "method": method})[0] is Match.FULL for route in routes)
    ]


def _corrected(generate: Callable[[], dict[str, Any]]) -> Callable[[], dict[str, Any]]:
    """Return `app.openapi` with what FastAPI cannot say: the media type of the errors, and limits as integers."""

    def document() -> dict[str, Any]:
        openapi = generate()
        operations = [operation for path in openapi["paths"].values() for operation in path.values()]
        for status, response in [pair for operation in operations for pair in operation["responses"].items()]:
            content = response.get("content", {})
            if status >= "400" and "application/json" in content:
                content[ProblemResponse.media_type] = content.pop("application/json")
        for schema in openapi["components"]["schemas"].values():
            for member in schema["properties"].values():
                member.update({word: int(member[word]) for word in _LIMITS if word in member})
        return openapi

    return document
