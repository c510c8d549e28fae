"""The ledger's endpoints, without any logic of the ledger."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request, Response, status

from .documented import IDEMPOTENCY_KEY, LISTED, OPENED, POSTED, errors
from .idempotency import parse_key
from .problems import ProblemRoute
from .schemas import (
    LARGEST_PAGE,
    AccountView,
    Digits,
    NewAccount,
    NewTransaction,
    OptionalDay,
    TransactionPage,
    TransactionView,
)
from .service import Ledger

# the operations' names in generated clients
router = APIRouter(route_class=ProblemRoute, tags=["ledger"], generate_unique_id_function=lambda route: route.name)


async def _ledger(request: Request) -> Ledger:
    return Ledger(request.app.state.ledger_database)


async def _key(request: Request) -> str:
    return parse_key(request.headers.getlist("Idempotency-Key"))


_Ledger = Annotated[Ledger, Depends(_ledger)]
_Key = Annotated[str, Depends(_key)]
_AccountId = Annotated[int, Path(ge=1, lt=2**63), Digits]
_BookedUntil = Annotated[
    OptionalDay, Query(description="The balance at the end of this day; leave it out for that of all postings.")
]
_Limit = Annotated[int, Query(ge=1, le=LARGEST_PAGE), Digits]
_Cursor = Annotated[str, Query(description="next_cursor of the page before; leave it out for the newest.")]


@router.post("/accounts", status_code=status.HTTP_201_CREATED, responses=OPENED | errors(400, 409, 413, 422, 503))
async def open_account(body: NewAccount, ledger: _Ledger, request: Request, response: Response) -> AccountView:
    """Open an account."""
    account = await ledger.open_account(body)
    response.headers["Location"] = request.url_for("read_account", account_id=account.id).path
    return account


@router.get("/accounts/{account_id}", responses=errors(404, 422, 503))
async def read_account(account_id: _AccountId, ledger: _Ledger, booked_until: _BookedUntil = None) -> AccountView:
    """Read an account and its balance, now or at the end of a day."""
    return await ledger.account(account_id, booked_until)


@router.post(
    "/transactions",
    status_code=status.HTTP_201_CREATED,
    responses={
        200: {"model": TransactionView, "description": "The key was used before; this is its transaction"},
        **POSTED,
        **errors(400, 413, 422, 503),
    },
    openapi_extra={"parameters": [IDEMPOTENCY_KEY]},
)
async def post_transaction(body: NewTransaction, key: _Key, ledger: _Ledger, response: Response) -> TransactionView:
    """Post a transaction, once for each Idempotency-Key."""
    posted = await ledger.post(body, key)
    if posted.replayed:
        response.status_code = status.HTTP_200_OK
    return posted.transaction


@router.get("/transactions", responses=LISTED | errors(400, 422, 503))
async def list_transactions(ledger: _Ledger, limit: _Limit = 50, cursor: _Cursor = "") -> TransactionPage:
    """List transactions, newest first."""
    return await ledger.page(limit, cursor)
