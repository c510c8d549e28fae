"""The twin in memory keeps the contract of the electors it stands in for."""

import pytest

from tests.support.elector_contract import STRANGER, Arena, ElectorContract
from tests.unit.electors.kubernetes.election import Election, FakeElector


class InMemory:
    """An `Arena` around one election."""

    ttl_seconds = 0.0

    def __init__(self) -> None:
        self.election = Election()

    def make_elector(self, instance: str) -> FakeElector:
        """One more who wants to lead."""
        return self.election.elector(instance)

    async def take_away(self) -> None:
        """A stranger leads."""
        self.election.rob(STRANGER)


@pytest.fixture
def arena() -> Arena:
    """A new election."""
    return InMemory()


class TestInMemory(ElectorContract):
    """All of it but what time does."""
