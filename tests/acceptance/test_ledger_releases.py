"""Each release of the ledger serves beside the next one: real processes of the old code and of the new one."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from devtools.releases import HEADS, NEWEST, release_tree
from tests.support.fleet import Instance, migrate, one_in, until_all_ready
from tests.support.servers import fetch_sync

pytestmark = pytest.mark.acceptance

DAY, DAY_BEFORE = "2026-02-28", "2026-02-27"
WRONG_DAYS = (
    "SELECT count(*) FROM postings p JOIN transactions t ON t.id = transaction_id WHERE p.booked_on <> t.booked_on"
)
UNFILLED = "SELECT count(*) FROM transactions WHERE request_sha256 = ''"
DIFFERING = "SELECT count(*) FROM transactions WHERE request_sha256 <> request_digest OR request_digest = ''"

_keys = count(1)


@contextmanager
def serving(release: int, url: str, folder: Path) -> Iterator[Instance]:
    """Yield a ready instance of a release, which has migrated the database to its own head."""
    with one_in(release_tree(release, folder / str(release)), url, f"release-{release}") as (instance,):
        until_all_ready([instance])
        yield instance


def number(url: str, sql: str) -> int:
    """Return the number that a query counts."""
    found: int = fetch_sync(url, sql)[0][0]
    return found


def account(instance: Instance, **members: str) -> int:
    """Open an account and return its id."""
    opened = instance.post("/accounts", {"name": instance.name, "currency": "EUR", **members})
    assert opened.status_code == 201, opened.text
    account_id: int = opened.json()["id"]
    return account_id


def transfer(source: int, target: int, amount: int) -> dict[str, Any]:
    """Return a transaction of the day `DAY`."""
    amounts = ((source, -amount), (target, amount))
    postings = [{"account_id": each, "currency": "EUR", "amount": part} for each, part in amounts]
    return {"booked_on": DAY, "postings": postings}


def one_writes_and_the_other_reads(writer: Instance, reader: Instance) -> int:
    """Assert that `reader` answers about what `writer` has written as `writer` would; return the account."""
    source, target = account(writer), account(writer)
    body, key = transfer(source, target, 7), f"key-{next(_keys)}"
    posted = writer.post("/transactions", body, **{"Idempotency-Key": key})
    assert posted.status_code == 201, posted.text
    replayed = reader.post("/transactions", body, **{"Idempotency-Key": key})
    assert (replayed.status_code, replayed.json()) == (200, posted.json())
    reused = reader.post("/transactions", transfer(source, target, 8), **{"Idempotency-Key": key})
    assert (reused.status_code, reused.json()["type"]) == (422, "urn:ledger:problem:idempotency-key-reused")
    assert reader.get("/transactions?limit=1").json()["transactions"] == [posted.json()]
    assert reader.get(f"/accounts/{target}").json()["balance"] == 7
    return target


def both_serve(older: Instance, newer: Instance) -> int:
    """Assert that both releases work on one database; return an account of a transaction of the older one."""
    assert (older.ready(), newer.ready()) == (True, True)
    one_writes_and_the_other_reads(newer, older)
    return one_writes_and_the_other_reads(older, newer)


def knows_the_balance_of_each_day(instance: Instance, account_id: int) -> bool:
    """Return whether the balance of an account is 7 at the end of `DAY` and 0 on the day before."""
    balances = [
        instance.get(f"/accounts/{account_id}?booked_until={day}").json()["balance"] for day in (DAY_BEFORE, DAY)
    ]
    return balances == [0, 7]


def test_each_release_serves_beside_the_next_one(database_url: str, tmp_path: Path) -> None:
    """Releases 1 and 2 share the expanded schema, releases 2 and 3 the contracted one, and again the expanded one.

    What one posts, the other replays, lists and adds up, and rows that release 1 wrote incompletely are completed.
    """
    with serving(1, database_url, tmp_path) as first:
        old = one_writes_and_the_other_reads(first, first)
        with serving(2, database_url, tmp_path) as second:
            between = both_serve(first, second)
            assert all(knows_the_balance_of_each_day(second, each) for each in (old, between))
            # what the default of a column gave to the rows of release 1
            assert (number(database_url, WRONG_DAYS), number(database_url, UNFILLED)) == (2, 1)
            first.close()
            with serving(NEWEST, database_url, tmp_path) as third:
                assert number(database_url, WRONG_DAYS) == number(database_url, UNFILLED) == 0
                accounts = [old, between, both_serve(second, third)]
                assert all(knows_the_balance_of_each_day(each, a) for each in (second, third) for a in accounts)
                one_number_belongs_to_one_account(second, third)
                undo_the_contract(database_url)
                accounts.append(both_serve(second, third))
                assert all(knows_the_balance_of_each_day(each, a) for each in (second, third) for a in accounts)


def one_number_belongs_to_one_account(one: Instance, other: Instance) -> None:
    """Assert that the number of an account that one instance has opened is taken for the other."""
    account(one, number="1200")
    taken = other.post("/accounts", {"number": "1200", "name": "again", "currency": "EUR"})
    assert (taken.status_code, taken.json()["type"]) == (409, "urn:ledger:problem:account-number-taken")


def undo_the_contract(url: str) -> None:
    """Bring the schema of release 2 back, and assert that the dropped column has its values."""
    code, output = migrate("downgrade", HEADS[2], "--yes", url=url)
    assert code == 0, output
    assert number(url, DIFFERING) == 0
