"""All scenarios in turn, and the table of their outcomes."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator

from rich.table import Table

from tests.chaos.lab import laboratory, why_no_hosts
from tests.chaos.recipe.scenario import SCENARIOS, Outcome, Scenario, play

for _module in ("holder", "network", "lock", "server", "releases"):
    importlib.import_module(f"tests.chaos.recipe.scenarios_{_module}")


def chosen(only: str | None) -> list[Scenario]:
    """Return the scenarios in the order of their rows, or only the one called `only`.

    Raises:
        LookupError: there is none of that name; the message lists those there are.
    """
    found = [each for each in SCENARIOS if only in {None, each.name}]
    if not found:
        raise LookupError(f"no scenario {only}; there are: {', '.join(each.name for each in SCENARIOS)}")
    return sorted(found, key=lambda each: int(each.rows.partition(",")[0]))


def played(scenarios: Iterable[Scenario]) -> Iterator[Outcome]:
    """Run the scenarios, and yield the outcome of each."""
    with laboratory(0 if why_no_hosts() else 1) as lab:
        for each in scenarios:
            yield play(lab, each)


def table(outcomes: Iterable[Outcome]) -> Table:
    """Return a table with a row for each outcome."""
    drawn = Table("row", "fault", "what becomes of the recipe", show_lines=True)
    for outcome in outcomes:
        drawn.add_row(outcome.scenario.rows, outcome.scenario.fault, outcome.line)
    return drawn
