"""The rule of double entry, without a database."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Protocol

from .errors import CurrencyMismatch, Unbalanced, UnknownPostingAccount


class Entry(Protocol):
    """A posting; `amount` is in the currency's smallest unit."""

    @property
    def account_id(self) -> int:
        """The account of the posting."""
        ...

    @property
    def currency(self) -> str:
        """Three upper-case letters."""
        ...

    @property
    def amount(self) -> int:
        """Positive debits the account, negative credits it."""
        ...


def excess(entries: Iterable[Entry]) -> dict[str, int]:
    """Return the sum of each currency that does not sum to zero; empty if the entries balance."""
    totals: defaultdict[str, int] = defaultdict(int)
    for entry in entries:
        totals[entry.currency] += entry.amount
    return {currency: total for currency, total in totals.items() if total}


def require_balanced(entries: Iterable[Entry]) -> None:
    """Raise `Unbalanced`, with the sums, if the entries do not sum to zero in each currency."""
    left_over = excess(entries)
    if left_over:
        raise Unbalanced(left_over)


def require_matching_accounts(entries: Iterable[Entry], currencies: Mapping[int, str]) -> None:
    """Refuse entries whose account is not in `currencies` (account id to currency) or is kept in another currency.

    Raises:
        UnknownPostingAccount: for the first entry whose account does not exist.
        CurrencyMismatch: for the first entry in another currency than its account.
    """
    for position, entry in enumerate(entries):
        held = currencies.get(entry.account_id)
        if held is None:
            raise UnknownPostingAccount(position, entry.account_id)
        if held != entry.currency:
            raise CurrencyMismatch(position, entry.account_id, posted=entry.currency, held=held)
