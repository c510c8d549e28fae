"""Pages of the ledger's transactions, on each database."""

import httpx
import pytest

from tests.integration.ledger_client import LedgerClient, refusal


async def page(client: LedgerClient, limit: int, cursor: str | None = None) -> tuple[list[int], str | None]:
    """Return the ids on a page, and the cursor of the next page."""
    asked = httpx.QueryParams({"limit": limit} | ({"cursor": cursor} if cursor else {}))
    response = await client.http.get("/transactions", params=asked)
    assert response.status_code == 200, response.text
    found = response.json()
    return [transaction["id"] for transaction in found["transactions"]], found["next_cursor"]


async def posted(client: LedgerClient, number: int) -> list[int]:
    """Post `number` transactions and return their ids, newest first."""
    left, right = await client.pair()
    return [(await client.move(left, right))["id"] for _ in range(number)][::-1]


async def test_an_empty_ledger_has_one_empty_page(each_client: LedgerClient) -> None:
    """An empty ledger returns one empty page without a cursor."""
    assert await page(each_client, 50) == ([], None)


async def test_pages_return_each_transaction_once_newest_first(each_client: LedgerClient) -> None:
    """A client follows the cursors: it reads each transaction once, newest first, and the last cursor is null."""
    ids = await posted(each_client, 5)
    first, cursor = await page(each_client, 2)
    second, cursor = await page(each_client, 2, cursor)
    third, end = await page(each_client, 2, cursor)
    assert [first, second, third] == [ids[:2], ids[2:4], ids[4:]]
    assert end is None


async def test_a_full_last_page_has_no_cursor(each_client: LedgerClient) -> None:
    """The last page is full: it has no cursor to an empty page."""
    ids = await posted(each_client, 4)
    _, cursor = await page(each_client, 2)
    assert await page(each_client, 2, cursor) == (ids[2:], None)


async def test_new_transactions_do_not_move_the_pages(each_client: LedgerClient) -> None:
    """Transactions are posted while a client reads pages: it still reads each older transaction once."""
    ids = await posted(each_client, 4)
    first, cursor = await page(each_client, 2)
    later = await posted(each_client, 3)
    second, _ = await page(each_client, 2, cursor)
    assert first + second == ids
    assert (await page(each_client, 50))[0] == later + ids


async def test_a_page_has_50_transactions_by_default(client: LedgerClient) -> None:
    """A client gives no limit: the page has 50 transactions with their postings."""
    await posted(client, 51)
    found = (await client.http.get("/transactions")).json()
    assert len(found["transactions"]) == 50
    assert {len(transaction["postings"]) for transaction in found["transactions"]} == {2}


@pytest.mark.parametrize("limit", ["0", "201", "-1", "many", "", " 5", "5.0", "+5"])
async def test_a_limit_out_of_range_is_refused(client: LedgerClient, limit: str) -> None:
    """The limit is not a number from 1 to 200: the answer is 422."""
    response = await client.http.get("/transactions", params={"limit": limit})
    refusal(response, 422, "invalid-request")
    assert [fault["at"] for fault in response.json()["errors"]] == ["query/limit"]


async def test_a_malformed_cursor_is_400_and_quoted(client: LedgerClient) -> None:
    """The cursor is malformed: the answer is 400 and quotes it, instead of an empty page."""
    response = await client.http.get("/transactions", params={"cursor": "made-up"})
    assert "'made-up'" in refusal(response, 400, "malformed-cursor")
