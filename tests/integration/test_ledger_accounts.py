"""Accounts of the ledger over HTTP, on each database."""

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime

import pytest

from tests.integration.ledger_client import LedgerClient, line, refusal, transfer

NO_DAYS_IN_A_QUERY = ["2026-02-30", "31.03.2026", "2026-03-31T00:00:00", "20260331", "1774915200", "null"]

NO_NUMBERS = ["", "a", "-1", "12 00", "1200\n", "٣", "1" * 35, 1200]


async def test_a_new_account_has_balance_zero_and_a_location(each_client: LedgerClient) -> None:
    """A client opens an account: the answer is 201 with balance 0, and its Location returns the same account."""
    opened = await each_client.http.post("/accounts", json={"name": "Kasse Ö", "currency": "EUR"})
    assert opened.status_code == 201
    account = opened.json()
    assert opened.headers["location"] == f"/accounts/{account['id']}"
    assert (account["name"], account["currency"], account["balance"]) == ("Kasse Ö", "EUR", 0)
    offset = datetime.fromisoformat(account["created_at"]).utcoffset()
    assert offset is not None
    assert not offset
    read = await each_client.http.get(opened.headers["location"])
    assert (read.status_code, read.json()) == (200, account)


async def test_a_balance_is_the_sum_of_the_accounts_postings(each_client: LedgerClient) -> None:
    """The balance of an account is the sum of its own postings in all transactions."""
    left, right = await each_client.pair()
    await each_client.move(left, right, 700)
    await each_client.move(right, left, 50)
    assert [await each_client.balance(account) for account in (left, right)] == [-650, 650]


async def test_a_balance_may_exceed_64_bits(each_client: LedgerClient) -> None:
    """An amount has 64 bits: the sum of three largest amounts is still exact."""
    left, right = await each_client.pair()
    largest = 2**63 - 1
    for _ in range(3):
        await each_client.move(left, right, largest)
    assert await each_client.balance(right) == 3 * largest


async def test_a_transaction_may_name_an_account_twice(each_client: LedgerClient) -> None:
    """A transaction has two postings on one account: both are in its balance."""
    left, right = await each_client.pair()
    posted = await each_client.post({"postings": [line(left, -5), line(right, 2), line(right, 3)]})
    assert posted.status_code == 201
    assert await each_client.balance(right) == 5


async def test_a_balance_at_the_end_of_a_day_leaves_out_later_postings(each_client: LedgerClient) -> None:
    """Two transactions count for two days: each day's balance has those until its end, also before the first one."""
    left, right = await each_client.pair()
    for day, amount in (("2026-03-31", 700), ("2026-04-01", 50)):
        assert (await each_client.post({**transfer(left, right, amount), "booked_on": day})).status_code == 201
    days = ("2026-03-30", "2026-03-31", "2026-04-01", "9999-12-31")
    accounts = [await each_client.http.get(f"/accounts/{right}?booked_until={day}") for day in days]
    assert [account.json()["balance"] for account in accounts] == [0, 700, 750, 750]


@pytest.mark.parametrize("day", [*NO_DAYS_IN_A_QUERY, ""])
async def test_an_impossible_day_of_a_balance_is_refused(client: LedgerClient, day: str) -> None:
    """The end of a balance is no ISO date: the answer is 422 and names the parameter."""
    response = await client.http.get("/accounts/1", params={"booked_until": day})
    refusal(response, 422, "invalid-request")
    assert [fault["at"] for fault in response.json()["errors"]] == ["query/booked_until"]


async def test_a_number_belongs_to_one_account(each_client: LedgerClient) -> None:
    """An account has a number, which is returned: a second one with it is refused; others, or none, are accepted."""
    bodies = [
        {"name": "cash", "currency": "EUR", **more} for more in ({"number": "1200"}, {"number": "12-0.A"}, {}, {})
    ]
    opened = [await each_client.http.post("/accounts", json=body) for body in bodies]
    assert [(answer.status_code, answer.json()["number"]) for answer in opened] == [
        (201, "1200"),
        (201, "12-0.A"),
        (201, None),
        (201, None),
    ]
    assert (await each_client.http.get(opened[0].headers["location"])).json()["number"] == "1200"
    detail = refusal(await each_client.http.post("/accounts", json=bodies[0]), 409, "account-number-taken")
    assert "1200" in detail


async def test_concurrent_requests_for_one_number_open_one_account(each_client: LedgerClient) -> None:
    """Five clients open an account with one number at once: one succeeds, and the others are refused."""
    body = {"number": "1200", "name": "cash", "currency": "EUR"}
    answers = await asyncio.gather(*(each_client.http.post("/accounts", json=body) for _ in range(5)))
    assert sorted(answer.status_code for answer in answers) == [201, 409, 409, 409, 409]


async def test_an_unknown_account_is_404_and_named(each_client: LedgerClient) -> None:
    """A client reads an unknown account: the answer is 404 and names the id."""
    detail = refusal(await each_client.http.get("/accounts/4711"), 404, "unknown-account")
    assert "4711" in detail


@pytest.mark.parametrize("account_id", ["0", "-1", "abc", "1.5", "1.0", "+1", "1_0", "01", "٣", "9" * 5000, str(2**63)])
async def test_an_impossible_account_id_is_refused(client: LedgerClient, account_id: str) -> None:
    """No account can have this id: the answer is 422, and the id never reaches the database."""
    detail = refusal(await client.http.get(f"/accounts/{account_id}"), 422, "invalid-request")
    assert ascii(account_id)[1:-1][:70] in detail


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({"name": "cash", "currency": "eur"}, "body/currency"),
        ({"name": "cash", "currency": "EURO"}, "body/currency"),
        ({"name": "cash", "currency": "EUR\n"}, "body/currency"),
        ({"name": "cash", "currency": "ÄÖÜ"}, "body/currency"),
        ({"name": "cash"}, "body/currency"),
        ({"name": "", "currency": "EUR"}, "body/name"),
        ({"name": "x" * 201, "currency": "EUR"}, "body/name"),
        ({"name": "nul\x00", "currency": "EUR"}, "body/name"),
        ({"name": 7, "currency": "EUR"}, "body/name"),
        *(({"name": "cash", "currency": "EUR", "number": number}, "body/number") for number in NO_NUMBERS),
        ({"name": "cash", "currency": "EUR", "balance": 5}, "body/balance"),
        (["cash", "EUR"], "body"),
    ],
)
async def test_an_invalid_account_is_refused_with_the_place(client: LedgerClient, body: object, place: str) -> None:
    """An account has an invalid member: the answer is 422 and names the place of the error."""
    response = await client.http.post("/accounts", json=body)
    refusal(response, 422, "invalid-request")
    assert [fault["at"] for fault in response.json()["errors"]] == [place]


async def test_a_lone_surrogate_is_refused_and_quoted(client: LedgerClient) -> None:
    """A name contains a lone surrogate: the answer is 422 and quotes it in valid JSON."""
    body = b'{"name": "\\ud800", "currency": "EUR"}'
    response = await client.http.post("/accounts", content=body, headers={"Content-Type": "application/json"})
    assert "\\ud800" in refusal(response, 422, "invalid-request")


@pytest.mark.parametrize(
    ("body", "kind"), [(b'{"name": ', "malformed-body"), (b'{"name": "\xff"}', "http"), (b"1" * 5000, "http")]
)
async def test_a_body_that_is_not_json_is_400(client: LedgerClient, body: bytes, kind: str) -> None:
    """The body is cut off, not UTF-8, or a number that Python does not parse: the answer is 400."""
    response = await client.http.post("/accounts", content=body, headers={"Content-Type": "application/json"})
    refusal(response, 400, kind)


async def test_a_huge_body_is_refused_unread(client: LedgerClient) -> None:
    """The body is too large, with or without a Content-Length: the answer is 413."""

    async def endless() -> AsyncIterator[bytes]:
        yield b'{"name": "'
        for _ in range(1000):
            yield b"x" * 1000

    for content in (b'"' + b"x" * 1_000_000 + b'"', endless()):
        response = await client.http.post("/accounts", content=content, headers={"Content-Type": "application/json"})
        refusal(response, 413, "http")


async def test_all_errors_are_listed_and_the_first_ones_are_in_the_detail(client: LedgerClient) -> None:
    """A body has five errors: the list has all of them, the sentence the first three."""
    response = await client.http.post("/accounts", json={"a": 1, "b": 2, "c": 3})
    assert refusal(response, 422, "invalid-request").endswith("; and 2 more.")
    assert len(response.json()["errors"]) == 5
