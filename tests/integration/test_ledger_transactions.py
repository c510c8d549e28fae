"""Posting transactions over HTTP, on each database: validation, idempotency keys and races."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest
from sqlalchemy import text

from api.ledger.database import Database
from api.ledger.idempotency import fingerprint
from api.ledger.schemas import NewTransaction
from api.migrations.urls.database_url import DatabaseURL
from tests.integration.ledger_client import (
    LedgerClient,
    line,
    refusal,
    transfer,
    until_sessions,
)
from tests.support.servers import fetch

NO_DAYS = [
    *["2026-02-30", "2026-1-31", "20260131", "2026-01-31T00:00:00", "2026-01-31\n", "\u0662026-01-31"],
    *["", "0", "86400", 0, 86400, 0.0, True, [], {}],
]
"""Values that are no date written YYYY-MM-DD; pydantic itself accepts some as seconds since 1970."""


async def rows(url: str, table: str) -> int:
    """Return how many rows a table has, as another connection reads it."""
    database = Database(DatabaseURL.parse(url))
    try:
        async with database.sessions() as session:
            return await session.scalar(text(f"SELECT count(*) FROM {table}")) or 0
    finally:
        await database.dispose()


async def test_a_transaction_is_returned_as_posted(each_client: LedgerClient) -> None:
    """The answer has the postings in the order that was sent, the description and the day."""
    left, right = await each_client.pair()
    body = {**transfer(left, right, 7), "description": "rent ½", "booked_on": "2026-02-28"}
    posted = await each_client.post(body)
    assert posted.status_code == 201
    made = posted.json()
    assert {name: made[name] for name in body} == body


async def test_the_day_is_today_in_utc_unless_given(each_client: LedgerClient) -> None:
    """A client gives no booked_on: the day is today in UTC."""
    before = datetime.now(UTC).date()
    made = await each_client.move(*await each_client.pair())
    assert made["booked_on"] in {str(before), str(datetime.now(UTC).date())}


async def test_each_currency_balances_separately(each_client: LedgerClient) -> None:
    """A conversion has two postings in each of two currencies: it is accepted."""
    euro, euro_exchange = await each_client.pair("EUR")
    dollar, dollar_exchange = await each_client.pair("USD")
    lines = [line(euro, -100), line(euro_exchange, 100)]
    lines += [line(dollar_exchange, -117, "USD"), line(dollar, 117, "USD")]
    assert (await each_client.post({"postings": lines})).status_code == 201
    assert await each_client.balance(dollar) == 117


async def test_an_unbalanced_transaction_is_refused(each_client: LedgerClient, each_ledger_url: str) -> None:
    """One currency does not balance: the answer is 422 and names only that one, and no row is written."""
    left, right = await each_client.pair("EUR")
    dollar = await each_client.open(currency="USD")
    lines = [line(left, -5), line(right, 5), line(dollar, 3, "USD")]
    detail = refusal(await each_client.post({"postings": lines}), 422, "unbalanced-transaction")
    assert "USD sums to 3" in detail
    assert "EUR" not in detail
    assert await rows(each_ledger_url, "transactions") == 0


async def test_a_posting_to_an_unknown_account_is_refused(each_client: LedgerClient, each_ledger_url: str) -> None:
    """A posting names an unknown account: the answer is 422 with the posting's place and the id."""
    left = await each_client.open()
    detail = refusal(await each_client.post(transfer(left, 4711)), 422, "unknown-posting-account")
    assert detail == "postings[1] names account 4711, which does not exist."
    assert await rows(each_ledger_url, "transactions") == 0


async def test_a_posting_in_another_currency_than_its_account_is_refused(each_client: LedgerClient) -> None:
    """A posting has another currency than its account: the answer is 422, even if the transaction balances."""
    left, dollar = await each_client.open(), await each_client.open(currency="USD")
    detail = refusal(await each_client.post(transfer(left, dollar)), 422, "currency-mismatch")
    assert f"account {dollar} is kept in USD" in detail


async def test_the_database_refuses_a_wrong_currency_too(client: LedgerClient, ledger_url: str) -> None:
    """A posting with a wrong currency bypasses the service: the composite foreign key refuses it."""
    left, right = await client.pair()
    made = await client.move(left, right)
    with pytest.raises(asyncpg.ForeignKeyViolationError):
        await fetch(ledger_url, "INSERT INTO postings VALUES ($1, 2, $2, 'USD', 1)", made["id"], left)


@pytest.mark.parametrize("amount", [0, 1.0, 1.5, "1", True, None, 2**63, -(2**63) - 1, 10**30])
async def test_an_amount_that_is_not_a_nonzero_64_bit_integer_is_refused(client: LedgerClient, amount: object) -> None:
    """An amount is zero, too large or no integer: the answer is 422, and the amount is not rounded or parsed."""
    response = await client.post({"postings": [line(1, amount), line(2, -1)]})
    refusal(response, 422, "invalid-request")
    assert [fault["at"] for fault in response.json()["errors"]] == ["body/postings/0/amount"]


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"postings": []}, "body/postings"),
        ({"postings": [line(1, 1)]}, "body/postings"),
        ({"postings": [line(1, 1), line(2, -1)] * 251}, "body/postings"),
        ({"description": "x" * 501}, "body/description"),
        ({"description": "bell\x07"}, "body/description"),
        *(({"booked_on": day}, "body/booked_on") for day in NO_DAYS),
        ({"currency": "EUR"}, "body/currency"),
    ],
)
async def test_an_invalid_transaction_is_refused_with_the_place(
    client: LedgerClient, change: dict[str, Any], place: str
) -> None:
    """A transaction has too few or too many postings or an invalid member: the answer is 422 with the place."""
    response = await client.post(transfer(1, 2) | change)
    refusal(response, 422, "invalid-request")
    assert [fault["at"] for fault in response.json()["errors"]] == [place]


async def test_a_request_without_a_key_is_refused(client: LedgerClient) -> None:
    """A request has no Idempotency-Key: the answer is 400 with an example."""
    response = await client.http.post("/transactions", json=transfer(1, 2))
    assert "Idempotency-Key: " in refusal(response, 400, "idempotency-key-missing")


async def test_a_malformed_key_is_refused_and_quoted(client: LedgerClient) -> None:
    """The Idempotency-Key is malformed: the answer is 400 and quotes it."""
    detail = refusal(await client.post(transfer(1, 2), key="two words"), 400, "idempotency-key-malformed")
    assert "'two words'" in detail


async def test_two_keys_are_refused(client: LedgerClient) -> None:
    """A request has two Idempotency-Key headers, different or equal ones: the answer is 400 with both."""
    for second in ('"two"', '"one"'):
        headers = [("Idempotency-Key", '"one"'), ("Idempotency-Key", second)]
        response = await client.http.post("/transactions", json=transfer(1, 2), headers=headers)
        detail = refusal(response, 400, "idempotency-key-malformed")
        assert f"'\"one\"' and '{second}'" in detail


async def test_a_replay_returns_the_original(each_client: LedgerClient, each_ledger_url: str) -> None:
    """A client repeats a request, with a quoted and a plain key: the second answer is 200 with the same transaction."""
    body = transfer(*await each_client.pair(), 7)
    first, second = await each_client.post(body, key='"once"'), await each_client.post(body, key="once")
    assert (first.status_code, second.status_code) == (201, 200)
    assert second.json() == first.json()
    assert await rows(each_ledger_url, "postings") == 2


async def test_a_key_with_another_payload_is_refused(each_client: LedgerClient) -> None:
    """A key is used with another payload: the answer is 422 with key and transaction, and the original is kept."""
    left, right = await each_client.pair()
    first = (await each_client.post(transfer(left, right, 7), key="once")).json()
    detail = refusal(await each_client.post(transfer(left, right, 8), key="once"), 422, "idempotency-key-reused")
    assert "'once'" in detail
    assert f"transaction {first['id']}" in detail
    assert await each_client.balance(right) == 7


async def test_a_refused_transaction_leaves_its_key_unused(each_client: LedgerClient) -> None:
    """A transaction is refused: the client may post a corrected one with the same key."""
    left, right = await each_client.pair()
    refusal(await each_client.post(transfer(left, 4711), key="once"), 422, "unknown-posting-account")
    assert (await each_client.post(transfer(left, right), key="once")).status_code == 201


async def test_many_identical_requests_at_once_make_one_transaction(
    each_client: LedgerClient, each_ledger_url: str
) -> None:
    """Twenty identical requests at once: one answer is 201, the others are 200, with one transaction."""
    body = transfer(*await each_client.pair(), 7)
    answers = await asyncio.gather(*(each_client.post(body, key="once") for _ in range(20)))
    assert sorted(answer.status_code for answer in answers) == [200] * 19 + [201]
    assert len({answer.text for answer in answers}) == 1
    assert await rows(each_ledger_url, "transactions") == 1


@pytest.mark.parametrize(("ending", "status"), [("COMMIT", 200), ("ROLLBACK", 201)])
async def test_a_request_waits_for_the_holder_of_its_key(
    client: LedgerClient, ledger_url: str, ending: str, status: int
) -> None:
    """Another session holds the key: the request waits, then gets its transaction or, after a rollback, a new one."""
    body = transfer(*await client.pair())
    holder = await asyncpg.connect(ledger_url)
    try:
        await holder.execute("BEGIN")
        digest = fingerprint(NewTransaction.model_validate(body))
        held = await holder.fetchval(
            "INSERT INTO transactions (idempotency_key, request_sha256, description) VALUES ('once', $1, '')"
            " RETURNING id",
            digest,
        )
        second = asyncio.create_task(client.post(body, key="once"))
        await until_sessions(ledger_url, 1, waiting_for_a_lock=True)
        await holder.execute(ending)
        answer = await second
    finally:
        await holder.close()
    assert answer.status_code == status
    assert (answer.json()["id"] == held) is (ending == "COMMIT")


async def test_opposite_transfers_at_once_all_succeed(each_client: LedgerClient) -> None:
    """Forty opposite transfers between two accounts at once: none deadlocks and no amount is lost."""
    left, right = await each_client.pair()
    there = [each_client.move(left, right, 3) for _ in range(20)]
    back = [each_client.move(right, left, 2) for _ in range(20)]
    await asyncio.gather(*there, *back)
    assert [await each_client.balance(account) for account in (left, right)] == [-20, 20]
