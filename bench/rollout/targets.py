"""The requests of the load, in the format of vegeta's targets: each a JSON object in a line."""

from __future__ import annotations

import base64
import json
import random
import uuid
from collections.abc import Iterator
from typing import Any

CURRENCY = "EUR"
MIX = ("balance", "post", "list", "post", "balance", "list", "balance", "post", "balance", "open")
"""Of ten requests six read: a balance or the newest transactions; four write: a transaction or an account."""


def targets(url: str, accounts: int, seed: int = 1) -> Iterator[str]:
    """Yield requests to the ledger at `url` without end; each POST of a transaction has a new Idempotency-Key.

    Args:
        url: of the load balancer.
        accounts: the accounts 1 to this number exist.
        seed: of the choice of accounts, so that each run asks for the same ones.
    """
    chance = random.Random(seed)  # noqa: S311 - no secret
    while True:
        for kind in MIX:
            yield json.dumps(_request(kind, url, chance.randint(1, accounts), chance.randint(1, accounts)))


def _request(kind: str, url: str, one: int, other: int) -> dict[str, Any]:
    match kind:
        case "balance":
            return {"method": "GET", "url": f"{url}/accounts/{one}"}
        case "list":
            return {"method": "GET", "url": f"{url}/transactions?limit=10"}
        case "open":
            return _post(f"{url}/accounts", {"name": f"opened beside {one}", "currency": CURRENCY})
    sides = ((one, 100), (other, -100))
    postings = [{"account_id": id, "currency": CURRENCY, "amount": amount} for id, amount in sides]
    return _post(f"{url}/transactions", {"postings": postings}, {"Idempotency-Key": [str(uuid.uuid4())]})


def _post(url: str, body: Any, headers: dict[str, list[str]] | None = None) -> dict[str, Any]:
    return {
        "method": "POST",
        "url": url,
        "header": {"Content-Type": ["application/json"], **(headers or {})},
        "body": base64.b64encode(json.dumps(body).encode()).decode(),
    }
