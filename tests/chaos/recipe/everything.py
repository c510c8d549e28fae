"""All scenarios, one after the other, and the table of what became of the recipe."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator

from rich.table import Table

from tests.chaos.lab import laboratory, why_no_hosts
from tests.chaos.recipe.scenario import SCENARIOS, Outcome, Scenario, play

for _module in ("holder", "network", "lock", "server", "releases"):
    importlib.import_module(f"tests.chaos.recipe.scenarios_{_module}")


def chosen(only: str | None) -> list[Scenario]:
    """The scenarios in the order of their rows; the one called `only` if that is given.

    Raises:
        LookupError: there is none of that name; the message lists those there are.
    """
    found = [each for each in SCENARIOS if only in {None, each.name}]
    if not found:
        raise LookupError(f"no scenario {only}; there are: {', '.join(each.name for each in SCENARIOS)}")
    return sorted(found, key=lambda each: int(each.rows.partition(",")[0]))


def played(scenarios: Iterable[Scenario]) -> Iterator[Outcome]:
    """Play them, and yield each as it ends."""
    with laboratory(0 if why_no_hosts() else 1) as lab:
        for each in scenarios:
            yield play(lab, each)


def table(outcomes: Iterable[Outcome]) -> Table:
    """A row for each."""
    drawn = Table("row", "fault", "what becomes of the recipe", show_lines=True)
    for outcome in outcomes:
        drawn.add_row(outcome.scenario.rows, outcome.scenario.fault, outcome.line)
    return drawn
