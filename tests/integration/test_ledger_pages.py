"""Paging through transactions, against each database."""

import httpx
import pytest

from tests.integration.ledger_client import LedgerClient, refusal


async def page(client: LedgerClient, limit: int, cursor: str | None = None) -> tuple[list[int], str | None]:
    """The ids on a page, and the cursor of the next."""
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
    """And no next one."""
    assert await page(each_client, 50) == ([], None)


async def test_pages_follow_one_another_to_the_end(each_client: LedgerClient) -> None:
    """Newest first, each transaction once, and null after the last."""
    ids = await posted(each_client, 5)
    first, cursor = await page(each_client, 2)
    second, cursor = await page(each_client, 2, cursor)
    third, end = await page(each_client, 2, cursor)
    assert [first, second, third] == [ids[:2], ids[2:4], ids[4:]]
    assert end is None


async def test_a_full_last_page_announces_no_further_one(each_client: LedgerClient) -> None:
    """Nobody is sent to fetch an empty page."""
    ids = await posted(each_client, 4)
    _, cursor = await page(each_client, 2)
    assert await page(each_client, 2, cursor) == (ids[2:], None)


async def test_new_transactions_do_not_move_the_pages(each_client: LedgerClient) -> None:
    """What arrives while somebody pages is neither shown twice nor pushes anything past the reader."""
    ids = await posted(each_client, 4)
    first, cursor = await page(each_client, 2)
    later = await posted(each_client, 3)
    second, _ = await page(each_client, 2, cursor)
    assert first + second == ids
    assert (await page(each_client, 50))[0] == later + ids


async def test_a_page_has_50_unless_asked_otherwise(client: LedgerClient) -> None:
    """The default of the limit, with the postings of every transaction."""
    await posted(client, 51)
    found = (await client.http.get("/transactions")).json()
    assert len(found["transactions"]) == 50
    assert {len(transaction["postings"]) for transaction in found["transactions"]} == {2}


@pytest.mark.parametrize("limit", ["0", "201", "-1", "many", ""])
async def test_a_limit_out_of_range_is_refused(client: LedgerClient, limit: str) -> None:
    """1 to 200; nothing is rounded into the range."""
    response = await client.http.get("/transactions", params={"limit": limit})
    refusal(response, 422, "invalid-request")
    assert [fault["at"] for fault in response.json()["errors"]] == ["query/limit"]


async def test_a_malformed_cursor_is_400_and_shown(client: LedgerClient) -> None:
    """Not an empty page, which would look like the end."""
    response = await client.http.get("/transactions", params={"cursor": "made-up"})
    assert "'made-up'" in refusal(response, 400, "malformed-cursor")
