"""The command line of `./dev chaos`."""

from __future__ import annotations

import argparse
import logging
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence

from rich.console import Console

from tests.chaos.lab import laboratory, why_no_hosts
from tests.chaos.recipe.everything import chosen, played, table
from tests.chaos.recipe.scenario import Outcome, Scenario
from tests.chaos.report import summary
from tests.chaos.rounds import INSTANCES, Verdict, draw, play
from tests.simulation.database import Violation
from tests.simulation.world import simulate


def main() -> int:
    """Run the requested rounds; return 1 if a promise was broken."""
    parser = argparse.ArgumentParser(prog="./dev chaos", description="Break things, and ask the database afterwards.")
    parser.add_argument("--rounds", type=int, default=10, metavar="N", help="rounds with real processes (default 10)")
    parser.add_argument("--simulate", type=int, metavar="N", help="N simulated schedules instead, in virtual time")
    parser.add_argument("--recipe", action="store_true", help="what becomes of the recipe that is written by hand")
    parser.add_argument("--only", metavar="NAME", help="one scenario of --recipe")
    parser.add_argument("--seed", type=int, default=None, metavar="S", help="where to begin; printed, to replay")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.randrange(10**6)
    if options.recipe:
        try:
            return _recipe(chosen(options.only))
        except LookupError as error:
            parser.error(str(error))
    return _simulate(seed, options.simulate) if options.simulate else _rounds(seed, options.rounds)


def _recipe(scenarios: Sequence[Scenario]) -> int:
    outcomes: list[Outcome] = []
    began = time.monotonic()
    for outcome in played(scenarios):
        outcomes.append(outcome)
        print(f"{outcome.seconds:5.1f} s  {outcome.scenario.name}", flush=True)
    console = Console()
    # a log has no width: break lines as on a wide screen
    console.width = console.width if console.is_terminal else 140
    console.print(table(outcomes), highlight=False)
    print(f"{len(outcomes)} scenarios in {(time.monotonic() - began) / 60:.1f} min")
    return 0


def _simulate(seed: int, count: int) -> int:
    logging.disable(logging.CRITICAL)
    faults: Counter[str] = Counter()
    began = time.monotonic()
    for number in range(seed, seed + count):
        try:
            faults += simulate(number).faults
        except Violation as violation:
            print(f"seed {number}: {violation}\nreplay: ./dev chaos --simulate 1 --seed {number}")
            return 1
    took = time.monotonic() - began
    print(f"{count} schedules, seeds {seed} to {seed + count - 1}, in {took:.1f} s: no promise broken")
    print("faults: " + ", ".join(f"{name} {times}" for name, times in sorted(faults.items())))
    return 0


def _rounds(seed: int, count: int) -> int:
    console = Console()
    verdicts: dict[int, Verdict] = {}
    began = time.monotonic()
    missing = why_no_hosts()
    if missing:
        console.print(f"network cuts are left out: {missing}", highlight=False)
    with laboratory(0 if missing else INSTANCES) as lab:
        for number in range(seed, seed + count):
            chance = random.Random(number)
            verdicts[number] = verdict = play(lab, f"chaos_{number}", chance, draw(lab, chance))
            told = f"{verdict.broken}, logs in {verdict.kept}" if verdict.broken else "good"
            console.print(
                f"seed {number}: {', '.join(verdict.faults.elements())}: {told}", highlight=False, soft_wrap=True
            )
    console.print(summary(verdicts, time.monotonic() - began))
    return 1 if any(verdict.broken for verdict in verdicts.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
