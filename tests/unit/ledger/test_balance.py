"""The rule of double entry, without a database."""

from dataclasses import dataclass

import pytest

from api.ledger.balance import excess, require_balanced, require_matching_accounts
from api.ledger.errors import CurrencyMismatch, Unbalanced, UnknownPostingAccount


@dataclass(frozen=True)
class Line:
    """A posting as the rule sees it."""

    account_id: int
    currency: str
    amount: int


def lines(*amounts: tuple[str, int]) -> list[Line]:
    """Return postings to the accounts 1, 2, 3 …, by currency and amount."""
    return [Line(account_id, currency, amount) for account_id, (currency, amount) in enumerate(amounts, start=1)]


@pytest.mark.parametrize(
    ("amounts", "left_over"),
    [
        ([("EUR", 5), ("EUR", -5)], {}),
        ([("EUR", 5), ("EUR", -3), ("EUR", -2)], {}),
        ([("EUR", 5), ("USD", -5)], {"EUR": 5, "USD": -5}),
        ([("EUR", 5), ("EUR", -5), ("USD", 7), ("USD", -8)], {"USD": -1}),
        ([("EUR", 2**63 - 1), ("EUR", 2**63 - 1)], {"EUR": 2**64 - 2}),
        ([], {}),
    ],
)
def test_each_currency_is_summed_on_its_own(amounts: list[tuple[str, int]], left_over: dict[str, int]) -> None:
    """Each currency is summed on its own, and a sum may exceed the 64 bits of an amount."""
    assert excess(lines(*amounts)) == left_over


def test_the_refusal_names_each_currency_that_does_not_balance() -> None:
    """The refusal of an unbalanced transaction names each unbalanced currency with its sum."""
    with pytest.raises(Unbalanced) as refused:
        require_balanced(lines(("USD", 7), ("EUR", 5), ("CHF", 1), ("CHF", -1)))
    assert refused.value.excess == {"EUR": 5, "USD": 7}
    assert str(refused.value) == "Postings must sum to zero in each currency, but EUR sums to 5, USD sums to 7."


def test_balanced_postings_of_known_accounts_are_accepted() -> None:
    """Balanced postings to known accounts in their currency are accepted."""
    entries = lines(("EUR", 5), ("EUR", -5))
    require_balanced(entries)
    require_matching_accounts(entries, {1: "EUR", 2: "EUR"})


def test_an_unknown_account_is_named_with_its_position() -> None:
    """The refusal of an unknown account names it and the position of its posting."""
    with pytest.raises(UnknownPostingAccount) as refused:
        require_matching_accounts(lines(("EUR", 5), ("EUR", -5)), {1: "EUR"})
    assert (refused.value.position, refused.value.account_id) == (1, 2)


def test_a_posting_in_another_currency_than_its_account_is_refused() -> None:
    """A posting in another currency than its account's is refused."""
    with pytest.raises(CurrencyMismatch) as refused:
        require_matching_accounts(lines(("EUR", 5), ("EUR", -5)), {1: "EUR", 2: "USD"})
    assert str(refused.value) == "postings[1] is in EUR, but account 2 is kept in USD."
