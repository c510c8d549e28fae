"""What schemathesis, which loads this module, must know of the ledger beyond its OpenAPI document."""

from typing import Any

import schemathesis
from schemathesis.checks import CheckContext
from schemathesis.core.transport import Response
from schemathesis.generation.case import Case
from schemathesis.hooks import HookContext
from schemathesis.specs.openapi.checks import positive_data_acceptance

RULES = {
    # JSON Schema cannot compare two members of a request, or a request with the database
    "urn:ledger:problem:unbalanced-transaction",
    "urn:ledger:problem:unknown-posting-account",
    "urn:ledger:problem:currency-mismatch",
    "urn:ledger:problem:idempotency-key-reused",
    "urn:ledger:problem:account-number-taken",
    # a cursor is opaque: a pattern would invite clients to compute it
    "urn:ledger:problem:malformed-cursor",
}
"""The refusals that a request may get although it matches the document."""


@schemathesis.hook
def before_load_schema(context: HookContext, raw_schema: dict[str, Any]) -> None:
    """Add a link from a new account to transactions on it, which without it hardly ever name an existing account."""
    posting = {"account_id": "$response.body#/id", "currency": "$response.body#/currency"}
    postings = [{**posting, "amount": 7}, {**posting, "amount": -7}]
    link = {
        "operationId": "post_transaction",
        "parameters": {"Idempotency-Key": '"{$response.body#/id}"'},
        "requestBody": {"postings": postings},
        # merged with the generated postings they would not balance
        "x-schemathesis": {"merge_body": False},
    }
    raw_schema["paths"]["/accounts"]["post"]["responses"]["201"]["links"]["transaction"] = link


@schemathesis.hook
def map_body(context: HookContext, body: Any) -> Any:
    """Write 3.0 as 3: JSON Schema calls both an integer, and the ledger refuses the first, which is a rounded float."""
    if isinstance(body, dict):
        return {name: map_body(context, value) for name, value in body.items()}
    if isinstance(body, list):
        return [map_body(context, value) for value in body]
    return int(body) if isinstance(body, float) and body.is_integer() else body


@schemathesis.check
def accepted_unless_a_rule_forbids_it(ctx: CheckContext, response: Response, case: Case[Any]) -> bool | None:
    """Refuse what `positive_data_acceptance`, which this check replaces, refuses, except by a rule of `RULES`."""
    if response.status_code in (400, 409, 422) and response.json()["type"] in RULES:
        return None
    return positive_data_acceptance(ctx, response, case)
