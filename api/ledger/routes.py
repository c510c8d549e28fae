"""The ledger's endpoints, without any logic of the ledger."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response, status

from .idempotency import parse_key
from .problems import ProblemResponse, ProblemRoute
from .schemas import LARGEST_PAGE, AccountView, NewAccount, NewTransaction, TransactionPage, TransactionView
from .service import Ledger

_PROBLEM: dict[str, Any] = {
    "description": "The error and the invalid value",
    "content": {ProblemResponse.media_type: {}},
}

router = APIRouter(route_class=ProblemRoute, tags=["ledger"], responses={"4XX": _PROBLEM, "503": _PROBLEM})


async def _ledger(request: Request) -> Ledger:
    return Ledger(request.app.state.ledger_database)


async def _key(
    idempotency_key: Annotated[
        str | None,
        Header(description="Required. A string in double quotes, 1 to 255 characters; the same key posts once."),
    ] = None,
) -> str:
    return parse_key(idempotency_key)


_Ledger = Annotated[Ledger, Depends(_ledger)]
_Key = Annotated[str, Depends(_key)]
_AccountId = Annotated[int, Path(ge=1, le=2**63 - 1)]
_Limit = Annotated[int, Query(ge=1, le=LARGEST_PAGE)]
_Cursor = Annotated[str | None, Query(description="next_cursor of the page before; leave it out for the newest.")]


@router.post("/accounts", status_code=status.HTTP_201_CREATED)
async def open_account(body: NewAccount, ledger: _Ledger, request: Request, response: Response) -> AccountView:
    """Open an account."""
    account = await ledger.open_account(body)
    response.headers["Location"] = request.url_for("read_account", account_id=account.id).path
    return account


@router.get("/accounts/{account_id}")
async def read_account(account_id: _AccountId, ledger: _Ledger) -> AccountView:
    """Read an account and its balance."""
    return await ledger.account(account_id)


@router.post(
    "/transactions",
    status_code=status.HTTP_201_CREATED,
    responses={200: {"model": TransactionView, "description": "The key was used before; this is its transaction"}},
)
async def post_transaction(body: NewTransaction, key: _Key, ledger: _Ledger, response: Response) -> TransactionView:
    """Post a transaction, once for each Idempotency-Key."""
    posted = await ledger.post(body, key)
    if posted.replayed:
        response.status_code = status.HTTP_200_OK
    return posted.transaction


@router.get("/transactions")
async def list_transactions(ledger: _Ledger, limit: _Limit = 50, cursor: _Cursor = None) -> TransactionPage:
    """List transactions, newest first."""
    return await ledger.page(limit, cursor)
