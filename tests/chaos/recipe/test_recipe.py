"""Some of the scenarios of `./dev chaos --recipe`, so that the command keeps working: those that are quick."""

import pytest

from tests.chaos.lab import Lab
from tests.chaos.recipe.everything import chosen, table
from tests.chaos.recipe.scenario import play
from tests.support.servers import Server


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("lock-connection-lost", "2 migrators inside the same statement at once"),
        ("two-heads", "Multiple head revisions are present"),
        ("vacuum", "10000 of 10000 dead rows stay"),
    ],
)
def test_a_scenario_says_what_the_database_shows(server: Server, name: str, words: str) -> None:
    """Each is run for real, and its line goes into the table."""
    (scenario,) = chosen(name)
    outcome = play(Lab(server), scenario)
    assert words in outcome.line
    assert table([outcome]).row_count == 1


def test_a_name_that_is_not_there_is_answered_with_those_that_are() -> None:
    """A typing error lists the names."""
    with pytest.raises(LookupError, match="no scenario vacum; there are: killed-between-statements"):
        chosen("vacum")
