"""The time for which the leader trusts a hold that expires."""

from api.migrations.electors.trust_window import TrustWindow


def test_a_hold_is_trusted_from_the_start_of_the_request() -> None:
    """A hold is trusted from the start of its request, so a late answer does not extend it, and not before a grant."""
    window = TrustWindow(25)
    assert window.left(now=-1e9) == 0
    window.granted(asked_at=100)
    assert [window.left(now) for now in (100, 124, 125, 1000)] == [25, 1, 0, 0]


def test_an_earlier_request_does_not_shorten_the_window() -> None:
    """The answer to an earlier request, which a later one overtook, does not shorten the trusted time."""
    window = TrustWindow(25)
    window.granted(asked_at=110)
    window.granted(asked_at=100)
    assert window.left(now=110) == 25
