"""Page cursors survive the trip, and nothing else passes for one."""

from base64 import urlsafe_b64encode

import pytest

from api.ledger.cursor import decode, encode
from api.ledger.errors import CursorMalformed


def forged(content: bytes) -> str:
    """Text that is encoded like a cursor, whatever is in it."""
    return urlsafe_b64encode(content).rstrip(b"=").decode()


@pytest.mark.parametrize("last_id", [1, 9, 10, 12345, 2**31, 2**63 - 1])
def test_a_cursor_brings_back_its_id(last_id: int) -> None:
    """Whatever the length of the id, and so of the base64 padding left out."""
    assert decode(encode(last_id)) == last_id


def test_a_cursor_needs_no_quoting_in_a_url() -> None:
    """Clients paste it into a query string as it is."""
    assert encode(2**63 - 1).replace("-", "").replace("_", "").isalnum()


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "1",
        "nonsense",
        "ü",
        "\ud800",
        forged(b"7"),
        forged(b"1:0"),
        forged(b"1:-7"),
        forged(b"1:007"),
        forged(b"2:7"),
        forged(b"1:7\n"),
        forged(b"1:9223372036854775808"),
        forged(b"1:99999999999999999999"),
        encode(7) + "=",
        encode(7) + "!",
        encode(7)[:-1],
        " " + encode(7),
    ],
)
def test_what_was_not_given_out_is_refused(cursor: str) -> None:
    """A cursor from elsewhere fails loudly; it would otherwise show some other page."""
    with pytest.raises(CursorMalformed):
        decode(cursor)


def test_the_refusal_shows_no_more_than_a_line_of_the_cursor() -> None:
    """A megabyte of rubbish is not sent back."""
    with pytest.raises(CursorMalformed) as refused:
        decode("x" * 1_000_000)
    assert len(str(refused.value)) < 300
