"""The Idempotency-Key header is parsed, and different payloads have different fingerprints."""

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
def test_a_quoted_key_and_a_bare_one_are_parsed(header: str, key: str) -> None:
    """The quoted key of the draft standard and the bare key that clients send are the same key."""
    assert parse_key([header]) == key


AMBIGUOUS = ["", '""', '"open', 'open"', '"a"b"', r'"\n"', "two words", "one, two", '"é"', "é", "k" * 256, '"a";p=1']


@pytest.mark.parametrize("header", [*AMBIGUOUS, f'"{"k" * 256}"', '"a"\n'])
def test_an_ambiguous_key_is_refused(header: str) -> None:
    """A key that is empty, too long, malformed, or that a proxy could rewrite is refused."""
    with pytest.raises(KeyMalformed):
        parse_key([header])


@pytest.mark.parametrize("headers", [['"a"', '"b"'], ['"a"', '"a"'], ["a", "a"], ['"a', 'b"']])
def test_several_keys_are_refused(headers: list[str]) -> None:
    """Several headers are refused, also equal ones, and lines that would be one string if they were joined."""
    with pytest.raises(KeyMalformed, match="expected one header"):
        parse_key(headers)


def test_a_missing_key_has_its_own_error() -> None:
    """The error about a missing key shows the header to send."""
    with pytest.raises(KeyMissing, match="Idempotency-Key: "):
        parse_key([])


def test_equal_payloads_have_one_fingerprint() -> None:
    """A payload without a field and one with the field's default have the same fingerprint."""
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
    """Another description, date or order of the postings changes the fingerprint."""
    assert fingerprint(other) != fingerprint(NewTransaction(postings=POSTINGS))
