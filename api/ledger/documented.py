"""What the OpenAPI document says beyond the types of the endpoints: errors, headers, and links between operations."""

from __future__ import annotations

from typing import Any

from .idempotency import KEY_PATTERN
from .schemas import Problem

_ERRORS = {
    400: "The request cannot be read: its body, its cursor, or its Idempotency-Key",
    404: "There is no such account",
    409: "Another account has this number",
    413: "The body is too large",
    422: "The request is invalid; `errors` lists the places if it does not have the expected form",
    503: "The instance is not ready, or its database is not available; the same request may succeed later",
}

_RETRY_AFTER = {"Retry-After": {"description": "In seconds", "required": True, "schema": {"type": "integer"}}}

_LOCATION = {"Location": {"description": "The account's path", "required": True, "schema": {"type": "string"}}}

_READ_ACCOUNT = {"operationId": "read_account", "parameters": {"account_id": "$response.body#/id"}}

_POSTED_TO = {"operationId": "read_account", "parameters": {"account_id": "$response.body#/postings/0/account_id"}}

_REPEAT = {
    "operationId": "post_transaction",
    "description": "The same key and the same payload: the answer is this transaction",
    "parameters": {"Idempotency-Key": "$request.header.Idempotency-Key"},
    "requestBody": "$request.body",
}

_NEXT_PAGE = {"operationId": "list_transactions", "parameters": {"cursor": "$response.body#/next_cursor"}}

OPENED: dict[int | str, dict[str, Any]] = {201: {"headers": _LOCATION, "links": {"account": _READ_ACCOUNT}}}

POSTED: dict[int | str, dict[str, Any]] = {201: {"links": {"account": _POSTED_TO, "repeat": _REPEAT}}}

LISTED: dict[int | str, dict[str, Any]] = {200: {"links": {"next_page": _NEXT_PAGE}}}

IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": True,
    "description": "A string in double quotes, 1 to 255 characters; the same key posts once. One header only.",
    "schema": {"type": "string", "pattern": KEY_PATTERN},
    "example": '"8e03978e-40d5-43dd-bc93-6894a57f9324"',
}
"""Not a parameter of the endpoint, because FastAPI would answer 422 if it is missing, and the draft says 400."""


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the answers with these statuses for `responses=`, each with a problem document."""
    answers: dict[int | str, dict[str, Any]] = {
        status: {"model": Problem, "description": _ERRORS[status]} for status in statuses
    }
    if 503 in answers:
        answers[503]["headers"] = _RETRY_AFTER
    return answers
