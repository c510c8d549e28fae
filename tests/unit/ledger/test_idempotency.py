"""Reading the Idempotency-Key and telling payloads apart."""

from datetime import date

import pytest

from api.ledger.errors import KeyMalformed, KeyMissing
from api.ledger.idempotency import fingerprint, parse_key
from api.ledger.schemas import NewPosting, NewTransaction

POSTINGS = [
    NewPosting(account_id=1, currency="EUR", amount=5),
    NewPosting(account_id=2, currency="EUR", amount=-5),
]


@pytest.mark.parametrize(
    ("header", "key"),
    [
        ('"8e03978e-40d5-43dd-bc93-6894a57f9324"', "8e03978e-40d5-43dd-bc93-6894a57f9324"),
        ("8e03978e-40d5-43dd-bc93-6894a57f9324", "8e03978e-40d5-43dd-bc93-6894a57f9324"),
        ('"with space, comma; and more"', "with space, comma; and more"),
        (r'"a \"quoted\" \\ part"', r'a "quoted" \ part'),
        (f'"{"k" * 255}"', "k" * 255),
    ],
)
def test_a_quoted_key_and_a_bare_one_are_read(header: str, key: str) -> None:
    """The draft's structured string and what clients really send mean the same key."""
    assert parse_key(header) == key


@pytest.mark.parametrize(
    "header", ["", '""', '"open', 'open"', '"a"b"', r'"\n"', "two words", "one, two", '"é"', "é", "k" * 256, '"a";p=1']
)
def test_a_key_that_could_be_read_two_ways_is_refused(header: str) -> None:
    """Two spellings a proxy may merge or re-encode must not become one key by accident."""
    with pytest.raises(KeyMalformed):
        parse_key(header)


def test_a_missing_key_is_its_own_error() -> None:
    """Its message shows what to send."""
    with pytest.raises(KeyMissing, match="Idempotency-Key: "):
        parse_key(None)


def test_equal_payloads_have_one_fingerprint() -> None:
    """What was left out and what was spelt out as the default are the same request."""
    assert fingerprint(NewTransaction(postings=POSTINGS)) == fingerprint(
        NewTransaction(postings=list(POSTINGS), description="", booked_on=None)
    )


@pytest.mark.parametrize(
    "other",
    [
        NewTransaction(postings=POSTINGS, description="other"),
        NewTransaction(postings=POSTINGS, booked_on=date(2026, 1, 1)),
        NewTransaction(postings=POSTINGS[::-1]),
    ],
)
def test_any_difference_changes_the_fingerprint(other: NewTransaction) -> None:
    """The order of the postings too: it is what a reader sees."""
    assert fingerprint(other) != fingerprint(NewTransaction(postings=POSTINGS))
