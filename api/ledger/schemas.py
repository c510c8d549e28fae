"""The requests and answers of the endpoints. No value is coerced: an amount of 1.0, "1" or true is refused."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

LARGEST_PAGE = 200


def _not_zero(amount: int) -> int:
    if amount == 0:
        raise ValueError("an amount must not be zero")
    return amount


def _iso_date(value: object) -> date:
    if type(value) is date:
        return value
    # pydantic would also accept a number of seconds since 1970, also in a string
    if not isinstance(value, str) or not re.fullmatch("[0-9]{4}-[0-9]{2}-[0-9]{2}", value):
        raise ValueError('a date is a string such as "2026-01-31"')
    return date.fromisoformat(value)


def _digits(text: str) -> int:
    # pydantic would also accept "+1", "1.0", "1_000" and spaces
    if not re.fullmatch("-?(0|[1-9][0-9]{0,99})", text):
        raise ValueError("expected decimal digits")
    return int(text)


def _in_utc(moment: datetime) -> datetime:
    # MySQL and SQLite return the stored time without its zone
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


# not `le`: FastAPI documents limits as floats, and 2**63 - 1 is none
RowId = Annotated[int, Field(strict=True, ge=1, lt=2**63)]
Currency = Annotated[str, Field(pattern="^[A-Z]{3}$", examples=["EUR"])]
# IBANs have up to 34 characters
AccountNumber = Annotated[str, Field(pattern="^[0-9A-Z][0-9A-Z.-]{0,33}$", examples=["1200"])]
Amount = Annotated[
    int,
    Field(
        strict=True,
        ge=-(2**63),
        lt=2**63,
        description="In the currency's smallest unit; positive is debit.",
        json_schema_extra={"not": {"const": 0}},
    ),
    AfterValidator(_not_zero),
]
# no control characters in names; PostgreSQL cannot store NUL
Text = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")]
Day = Annotated[date, BeforeValidator(_iso_date)]
OptionalDay = Annotated[date | None, BeforeValidator(_iso_date), WithJsonSchema({"type": "string", "format": "date"})]
"""In a query, which has no null."""
Digits = BeforeValidator(_digits)
"""Of an integer in a path or a query."""
Moment = Annotated[datetime, AfterValidator(_in_utc)]


class _Request(BaseModel):
    # an unknown member is probably a typing error, which must not be ignored where money moves
    model_config = ConfigDict(extra="forbid")


class _View(BaseModel):
    model_config = ConfigDict(from_attributes=True)


class NewAccount(_Request):
    """An account to open; no two have the same `number`."""

    number: AccountNumber | None = None
    name: Annotated[Text, Field(min_length=1, max_length=200)]
    currency: Currency


class AccountView(_View):
    """An account and the sum of its postings, or of those until a day."""

    id: int
    number: str | None
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
    booked_on: Day | None = None
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


class Fault(BaseModel):
    """One place where a request does not have the expected form, such as `body/postings/0/amount`."""

    at: str
    detail: str


class Problem(BaseModel):
    """An error (RFC 9457); `errors` is present only if the request does not have the expected form."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[Fault] = []
