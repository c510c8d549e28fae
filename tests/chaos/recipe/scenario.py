"""The type of a scenario, and the list of all scenarios."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tests.chaos.lab import Lab
from tests.chaos.recipe.crew import Crew, crew

Run = Callable[[Lab, Crew], str]


@dataclass(frozen=True)
class Scenario:
    """A fault, and a function that runs the recipe under it and says in a line what the database shows.

    Attributes:
        rows: of the table of faults in docs/reliability.md.
        name: for `--only`, and its database's.
    """

    rows: str
    name: str
    fault: str
    run: Run


@dataclass(frozen=True)
class Outcome:
    """What the recipe did in a scenario, or why the scenario was skipped."""

    scenario: Scenario
    line: str
    seconds: float


SCENARIOS: list[Scenario] = []


def scenario(rows: str, fault: str) -> Callable[[Run], Run]:
    """Register the function as a scenario under its own name."""

    def register(run: Run) -> Run:
        SCENARIOS.append(Scenario(rows, run.__name__.replace("_", "-"), fault, run))
        return run

    return register


def play(lab: Lab, scenario: Scenario) -> Outcome:
    """Run a scenario on a fresh database."""
    began = time.monotonic()
    with lab.server.database(f"recipe-{scenario.name}") as url, crew(url) as started:
        try:
            line = scenario.run(lab, started)
        except pytest.skip.Exception as missing:
            line = f"left out: {missing}"
    return Outcome(scenario, line, time.monotonic() - began)
