"""Three quick scenarios of `./dev chaos --recipe` run, so that the command keeps working."""

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
def test_a_scenario_reports_what_the_database_shows(server: Server, name: str, words: str) -> None:
    """Each of three scenarios runs on a real server and reports what the database shows in a row of the table."""
    (scenario,) = chosen(name)
    outcome = play(Lab(server), scenario)
    assert words in outcome.line
    assert table([outcome]).row_count == 1


def test_an_unknown_scenario_is_answered_with_the_list_of_names() -> None:
    """`--only` with an unknown name raises an error that lists the names of the scenarios."""
    with pytest.raises(LookupError, match="no scenario vacum; there are: killed-between-statements"):
        chosen("vacum")
