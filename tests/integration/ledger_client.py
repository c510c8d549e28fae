"""The ledger's router in an app of its own, and an HTTP client for it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI
from pydantic import SecretStr

from api.ledger import add_ledger, ledger_lifespan
from tests.support.servers import fetch_sync
from tests.support.waiting import wait_until

_keys = count(1)


@dataclass(frozen=True)
class LedgerSettings:
    """The part of the service's settings that the ledger reads."""

    database_url: SecretStr
    database_url_file: Path | None = None


@dataclass(frozen=True)
class LedgerClient:
    """Shorthand over `http`; `post` uses a fresh key unless the caller gives one."""

    http: httpx.AsyncClient

    async def open(self, name: str = "cash", currency: str = "EUR") -> int:
        """Open an account and return its id."""
        response = await self.http.post("/accounts", json={"name": name, "currency": currency})
        assert response.status_code == 201, response.text
        account_id: int = response.json()["id"]
        return account_id

    async def pair(self, currency: str = "EUR") -> tuple[int, int]:
        """Open two accounts in one currency."""
        return await self.open("left", currency), await self.open("right", currency)

    async def post(self, body: object, key: str | None = None) -> httpx.Response:
        """Post `body`, valid or not, to /transactions."""
        header = {"Idempotency-Key": key or f'"key-{next(_keys)}"'}
        return await self.http.post("/transactions", json=body, headers=header)

    async def move(self, source: int, target: int, amount: int = 1) -> dict[str, Any]:
        """Post a transfer and return the transaction that it made."""
        response = await self.post(transfer(source, target, amount))
        assert response.status_code == 201, response.text
        made: dict[str, Any] = response.json()
        return made

    async def balance(self, account_id: int) -> int:
        """Return the balance that the service reports."""
        balance: int = (await self.http.get(f"/accounts/{account_id}")).json()["balance"]
        return balance


def line(account_id: int, amount: object, currency: str = "EUR") -> dict[str, object]:
    """Return a posting as JSON; `amount` may be invalid."""
    return {"account_id": account_id, "currency": currency, "amount": amount}


def transfer(source: int, target: int, amount: int = 1) -> dict[str, Any]:
    """Return a transaction as JSON that moves `amount` from one account to another."""
    return {"postings": [line(source, -amount), line(target, amount)]}


@asynccontextmanager
async def ledger_client(url: str) -> AsyncIterator[LedgerClient]:
    """Yield a client of the ledger on the database `url`; the ledger's lifespan runs meanwhile."""
    app = FastAPI()
    app.state.settings = LedgerSettings(SecretStr(url))
    add_ledger(app)
    transport = httpx.ASGITransport(app)
    async with ledger_lifespan(app), httpx.AsyncClient(transport=transport, base_url="http://ledger.test") as http:
        yield LedgerClient(http)


def refusal(response: httpx.Response, status: int, kind: str) -> str:
    """Assert that `response` is the RFC 9457 problem `kind`, and return its detail."""
    assert response.headers["content-type"] == "application/problem+json", response.text
    problem = response.json()
    assert (response.status_code, problem["status"]) == (status, status), problem
    assert problem["type"] == f"urn:ledger:problem:{kind}"
    assert problem["title"]
    detail: str = problem["detail"]
    return detail


def sessions_of_ledger(url: str, *, waiting_for_a_lock: bool = False) -> int:
    """Return how many sessions of the ledger's pool the database of `url` has."""
    only = " AND wait_event_type = 'Lock'" if waiting_for_a_lock else ""
    sql = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'ledger@%'"
    )
    number: int = fetch_sync(url, sql + only)[0][0]
    return number


async def until_sessions(url: str, number: int, *, waiting_for_a_lock: bool = False) -> None:
    """Wait, without blocking the service, until the ledger has `number` such sessions."""

    def reached() -> bool:
        return sessions_of_ledger(url, waiting_for_a_lock=waiting_for_a_lock) == number

    what = f"{number} sessions of the ledger{' waiting for a lock' if waiting_for_a_lock else ''}"
    await asyncio.to_thread(wait_until, reached, what, seconds=10)
