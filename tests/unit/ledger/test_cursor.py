"""A page cursor returns its id, and any other text is refused."""

from base64 import urlsafe_b64encode

import pytest

from api.ledger.cursor import decode, encode
from api.ledger.errors import CursorMalformed


def forged(content: bytes) -> str:
    """Return text that is encoded like a cursor."""
    return urlsafe_b64encode(content).rstrip(b"=").decode()


@pytest.mark.parametrize("last_id", [1, 9, 10, 12345, 2**31, 2**63 - 1])
def test_a_cursor_returns_its_id(last_id: int) -> None:
    """A cursor returns its id, whatever the length of the id and of the omitted base64 padding."""
    assert decode(encode(last_id)) == last_id


def test_a_cursor_needs_no_quoting_in_a_url() -> None:
    """A cursor has only characters that need no quoting in a query string."""
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
def test_a_forged_cursor_is_refused(cursor: str) -> None:
    """Text that the service never issued as a cursor is refused instead of showing another page."""
    with pytest.raises(CursorMalformed):
        decode(cursor)


def test_the_refusal_of_a_long_cursor_is_short() -> None:
    """The refusal of a cursor of a million characters is shorter than 300 characters."""
    with pytest.raises(CursorMalformed) as refused:
        decode("x" * 1_000_000)
    assert len(str(refused.value)) < 300
