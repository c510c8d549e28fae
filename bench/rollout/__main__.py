"""The command line of `./dev rollout`."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from bench.laboratory import laboratory
from bench.rollout.load import Generator, generator
from bench.rollout.outcome import FULL, QUICK, failures, kinds
from bench.rollout.scenario import Rollout
from bench.rollout.variant import ours, recipe
from bench.spread import MILLISECONDS, Spread

if __name__ == "__main__":
    quick = "--quick" in sys.argv
    with laboratory(quick=quick, rounds=None) as lab:
        variant = (recipe if "--recipe" in sys.argv else ours)(lab.folder())
        began = time.time()
        rollout = Rollout(
            lab,
            variant,
            lab.database.empty_database(),
            QUICK if quick else FULL,
            lambda w: print(f"{time.time() - began:6.1f} {w}", flush=True),
        )
        outcome = rollout.run(Generator() if "--python" in sys.argv else generator())
        for phase in outcome.phases:
            got = outcome.of(phase)
            spread = Spread.of([s.seconds for s in got])
            print(
                f"{phase.name}: {phase.seconds:.1f} s, {len(got)} requests, {len(failures(got))} failed, p50 {spread.median * 1000:.0f} p99 {spread.percentile(99) * 1000:.0f} max {spread.largest * 1000:.0f} ms",
                dict(kinds(got)),
            )
        print(outcome.longest_stall(), outcome.migrators)
        print(outcome.log)
