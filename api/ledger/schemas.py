"""The requests and answers of the endpoints. No value is coerced: an amount of 1.0, "1" or true is refused."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

LARGEST_PAGE = 200


def _not_zero(amount: int) -> int:
    if amount == 0:
        raise ValueError("an amount must not be zero")
    return amount


def _in_utc(moment: datetime) -> datetime:
    # MySQL and SQLite return the stored time without its zone
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


RowId = Annotated[int, Field(strict=True, ge=1, le=2**63 - 1)]
Currency = Annotated[str, Field(pattern="^[A-Z]{3}$", examples=["EUR"])]
Amount = Annotated[
    int,
    Field(strict=True, ge=-(2**63), le=2**63 - 1, description="In the currency's smallest unit; positive is debit."),
    AfterValidator(_not_zero),
]
# no control characters in names; PostgreSQL cannot store NUL
Text = Annotated[str, Field(pattern=r"^\P{Cc}*$")]
Moment = Annotated[datetime, AfterValidator(_in_utc)]


class _Request(BaseModel):
    # an unknown member is probably a typing error, which must not be ignored where money moves
    model_config = ConfigDict(extra="forbid")


class _View(BaseModel):
    model_config = ConfigDict(from_attributes=True)


class NewAccount(_Request):
    """An account to open."""

    name: Annotated[Text, Field(min_length=1, max_length=200)]
    currency: Currency


class AccountView(_View):
    """An account and the sum of its postings."""

    id: int
    name: str
    currency: str
    balance: int
    created_at: Moment


class NewPosting(_Request):
    """One side of a transaction to post."""

    account_id: RowId
    currency: Currency
    amount: Amount


class NewTransaction(_Request):
    """A transaction to post; `booked_on` is today, in UTC, unless given."""

    description: Annotated[Text, Field(max_length=500)] = ""
    booked_on: date | None = None
    postings: Annotated[list[NewPosting], Field(min_length=2, max_length=500)]


class PostingView(_View):
    """One side of a posted transaction."""

    account_id: int
    currency: str
    amount: int


class TransactionView(_View):
    """A posted transaction."""

    id: int
    description: str
    booked_on: date
    created_at: Moment
    postings: list[PostingView]


class TransactionPage(BaseModel):
    """Transactions, newest first; `next_cursor` is null on the last page."""

    transactions: list[TransactionView]
    next_cursor: str | None
