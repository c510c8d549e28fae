"""The in-memory electors of the tests pass the contract of the real ones."""

import pytest

from tests.support.elector_contract import STRANGER, Arena, ElectorContract
from tests.unit.electors.kubernetes.election import Election, FakeElector


class InMemory:
    """An `Arena` around one election."""

    ttl_seconds = 0.0

    def __init__(self) -> None:
        self.election = Election()

    def make_elector(self, instance: str) -> FakeElector:
        """Return another candidate."""
        return self.election.elector(instance)

    async def take_away(self) -> None:
        """Make a stranger the leader."""
        self.election.rob(STRANGER)


@pytest.fixture
def arena() -> Arena:
    """Return a new election."""
    return InMemory()


class TestInMemory(ElectorContract):
    """The contract for electors whose holds do not expire."""
