"""The errors of requests to the ledger, each with its HTTP status and the invalid value.

The text of an error is the `detail` of the problem document; `problems` turns one into the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

_SHOWN_CHARACTERS = 80


def shown(value: object) -> str:
    """Return a value for a message: short, with escapes for unprintable characters."""
    text = ascii(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"


class LedgerError(Exception):
    """The base of all errors; not raised itself."""

    status: ClassVar[int] = 422
    kind: ClassVar[str]
    title: ClassVar[str]


class UnknownAccount(LedgerError):
    """The requested account does not exist."""

    status = 404
    kind = "unknown-account"
    title = "There is no such account"

    def __init__(self, account_id: int) -> None:
        self.account_id = account_id
        super().__init__(f"No account has the id {account_id}.")


class NumberTaken(LedgerError):
    """Another account has the number."""

    status = 409
    kind = "account-number-taken"
    title = "Another account has this number"

    def __init__(self, number: str) -> None:
        self.number = number
        super().__init__(f"An account with the number {shown(number)} exists. Choose another number, or leave it out.")


class Unbalanced(LedgerError):
    """The postings of a transaction do not sum to zero in some currency."""

    kind = "unbalanced-transaction"
    title = "The postings do not balance"

    def __init__(self, excess: Mapping[str, int]) -> None:
        self.excess = dict(excess)
        sums = ", ".join(f"{currency} sums to {total}" for currency, total in sorted(excess.items()))
        super().__init__(f"Postings must sum to zero in each currency, but {sums}.")


class UnknownPostingAccount(LedgerError):
    """A posting names an account that does not exist."""

    kind = "unknown-posting-account"
    title = "A posting names an account that does not exist"

    def __init__(self, position: int, account_id: int) -> None:
        self.position = position
        self.account_id = account_id
        super().__init__(f"postings[{position}] names account {account_id}, which does not exist.")


class CurrencyMismatch(LedgerError):
    """A posting is in another currency than its account."""

    kind = "currency-mismatch"
    title = "A posting is not in its account's currency"

    def __init__(self, position: int, account_id: int, *, posted: str, held: str) -> None:
        self.position = position
        self.account_id = account_id
        super().__init__(f"postings[{position}] is in {posted}, but account {account_id} is kept in {held}.")


class KeyMissing(LedgerError):
    """A transaction was sent without an Idempotency-Key."""

    status = 400
    kind = "idempotency-key-missing"
    title = "The Idempotency-Key header is missing"

    def __init__(self) -> None:
        super().__init__(
            'Posting a transaction needs a header such as Idempotency-Key: "8e03978e-40d5-43dd-bc93-6894a57f9324"; '
            "repeat a request with the same key and it is posted once."
        )


class KeyMalformed(LedgerError):
    """The Idempotency-Key is not one structured-field string of 1 to 255 characters."""

    status = 400
    kind = "idempotency-key-malformed"
    title = "The Idempotency-Key header cannot be read"

    def __init__(self, headers: Sequence[str]) -> None:
        super().__init__(
            f"Idempotency-Key is {' and '.join(shown(header) for header in headers[:2])}; "
            "expected one header with 1 to 255 printable ASCII characters in double quotes."
        )


class KeyReused(LedgerError):
    """The key already belongs to a transaction with another payload."""

    kind = "idempotency-key-reused"
    title = "The Idempotency-Key was used for another payload"

    def __init__(self, key: str, transaction_id: int) -> None:
        self.transaction_id = transaction_id
        super().__init__(
            f"The key {shown(key)} belongs to transaction {transaction_id}, which was posted with another payload. "
            "Send that payload again, or use a new key."
        )


class CursorMalformed(LedgerError):
    """The page cursor is not from this service."""

    status = 400
    kind = "malformed-cursor"
    title = "The cursor cannot be read"

    def __init__(self, cursor: str) -> None:
        super().__init__(
            f"The cursor {shown(cursor)} was not given out by this service; use next_cursor as received, "
            "or leave it out to start with the newest transaction."
        )


class DatabaseUnavailable(LedgerError):
    """The database is unreachable or refuses work for now; it is unknown whether a commit succeeded."""

    status = 503
    kind = "database-unavailable"
    title = "The ledger's database is not available"

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(
            "The database did not answer. Try again shortly; a transaction sent again with the same Idempotency-Key "
            "is posted once, even if this attempt went through."
        )


class Deadlocked(DatabaseUnavailable):
    """The database rolled back the transaction because of a deadlock; an immediate retry may succeed."""
