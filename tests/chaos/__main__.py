"""The command line of `./dev chaos`."""

from __future__ import annotations

import argparse
import logging
import random
import statistics
import sys
import time
from collections import Counter

from rich.console import Console
from rich.table import Table

from tests.chaos.recipe import concurrent_index, killed_holder
from tests.chaos.rounds import Verdict, play
from tests.servers import embedded_postgres
from tests.simulation.database import Violation
from tests.simulation.world import simulate


def main() -> int:
    """Run what was asked for; 1 if a promise was broken."""
    parser = argparse.ArgumentParser(prog="./dev chaos", description="Break things, and ask the database afterwards.")
    parser.add_argument("--rounds", type=int, default=10, metavar="N", help="rounds with real processes (default 10)")
    parser.add_argument("--simulate", type=int, metavar="N", help="N simulated schedules instead, in virtual time")
    parser.add_argument("--recipe", action="store_true", help="what becomes of the recipe that is written by hand")
    parser.add_argument("--seed", type=int, default=None, metavar="S", help="where to begin; printed, to replay")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.randrange(10**6)
    if options.recipe:
        return _recipe()
    return _simulate(seed, options.simulate) if options.simulate else _rounds(seed, options.rounds)


def _recipe() -> int:
    with embedded_postgres() as server:
        print("pg_advisory_lock() around alembic upgrade head, lock and revisions on one session,")
        print(f"  6 instances, CREATE INDEX CONCURRENTLY IF NOT EXISTS: {concurrent_index(server)}")
        print("the same with the lock on a connection of its own,")
        print(f"  the holder killed inside a long statement: {killed_holder(server)}")
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
    print(f"{count} schedules from seed {seed} in {time.monotonic() - began:.1f} s: {dict(faults)}; no promise broken")
    return 0


def _rounds(seed: int, count: int) -> int:
    console = Console()
    verdicts: list[Verdict] = []
    with embedded_postgres() as server:
        for number in range(seed, seed + count):
            chance = random.Random(number)
            verdict = play(server, f"chaos_{number}", chance)
            verdicts.append(verdict)
            told = ", ".join(verdict.faults.elements())
            console.print(f"seed {number}: {told}: {'good' if verdict.good else verdict}", highlight=False)
    console.print(_table(verdicts))
    return 0 if all(verdict.good for verdict in verdicts) else 1


def _table(verdicts: list[Verdict]) -> Table:
    table = Table(title=f"{len(verdicts)} rounds")
    table.add_column("what")
    table.add_column("how often", justify="right")
    faults: Counter[str] = sum((verdict.faults for verdict in verdicts), Counter())
    for name, times in sorted(faults.items()):
        table.add_row(name.replace("_", " "), str(times))
    table.add_section()
    for name in ("twice", "lost", "invalid", "stuck"):
        table.add_row(name, str(sum(len(getattr(verdict, name)) for verdict in verdicts)))
    seconds = [verdict.recovery_seconds for verdict in verdicts]
    table.add_row("time to recover, median and worst", f"{statistics.median(seconds):.1f} s, {max(seconds):.1f} s")
    return table


if __name__ == "__main__":
    sys.exit(main())
