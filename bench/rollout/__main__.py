"""The command line of `./dev rollout`."""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import replace

from bench.command import DONE, carry_out, number, screen
from bench.laboratory import CACHE, Laboratory, laboratory
from bench.machine import machine, moment, versions
from bench.report import drawn
from bench.rollout.document import DOCUMENT, write
from bench.rollout.load import generator
from bench.rollout.outcome import FULL, QUICK, Outcome, Size
from bench.rollout.proxy import haproxy
from bench.rollout.report import table
from bench.rollout.scenario import Rollout
from bench.rollout.variant import Variant, ours, recipe

FEWEST_POSTINGS, MOST_POSTINGS, HIGHEST_RATE = 1_000, 100_000_000, 10_000


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line.

    Raises:
        SystemExit: it is invalid; argparse has printed why.
    """
    parser = argparse.ArgumentParser(
        prog="./dev rollout",
        description="Replace release 1 of the ledger by release 2 and back, under load behind haproxy, and report what "
        "the clients notice. Nothing else may run on the machine meanwhile.",
    )
    parser.add_argument("--recipe", action="store_true", help="the usual recipe instead of this project")
    parser.add_argument("--write", action="store_true", help="run both and write docs/zero_downtime.md")
    parser.add_argument("--quick", action="store_true", help="a small table, two instances and few requests")
    parser.add_argument("--rate", type=number(1, HIGHEST_RATE), metavar="N", help="requests in a second (default: 200)")
    parser.add_argument(
        "--postings",
        type=number(FEWEST_POSTINGS, MOST_POSTINGS),
        metavar="N",
        help="rows of the largest table (default: 1000000)",
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code: 1 if a rollout could not be carried out. A missed goal is a result."""
    options = parse(arguments)

    def work() -> int:
        with laboratory(quick=options.quick, rounds=None) as lab:
            _run(lab, options)
        return DONE

    return carry_out("dev rollout", work)


def _run(lab: Laboratory, options: argparse.Namespace) -> None:
    haproxy()  # without it nothing else needs to start
    size = QUICK if options.quick else FULL
    size = replace(size, rate=options.rate or size.rate, postings=options.postings or size.postings)
    about = [
        f"{machine()}.",
        f"{versions(lab.database.version)}.",
        f"`./dev rollout{' --write' if options.write else ''}`, {moment()}.",
    ]
    print(*about, sep="\n", flush=True)
    variants = [ours, recipe] if options.write else [recipe if options.recipe else ours]
    outcomes = [_rolled_out(lab, variant(lab.folder()), size) for variant in variants]
    found = table(outcomes)
    screen().print("", drawn("A rollout under load", found), highlight=False, sep="\n")
    print(f"{found.missed} goals missed", flush=True)
    if options.write:
        print(f"written to {write(outcomes, about, CACHE / 'quick' if options.quick else DOCUMENT.parent)}")


def _rolled_out(lab: Laboratory, variant: Variant, size: Size) -> Outcome:
    """Run one rollout, and print each step with its time."""
    sends, began = generator(), time.monotonic()
    print(f"\n{variant.name}: {size.postings:,} postings, {size.rate} requests a second by {sends.name}", flush=True)

    def say(words: str) -> None:
        print(f"{time.monotonic() - began:7.1f} s  {words}", flush=True)

    outcome = Rollout(lab, variant, lab.database.empty_database(), size, say).run(sends)
    logs = CACHE / "rollout" / variant.name.replace(" ", "-")
    shutil.rmtree(logs, ignore_errors=True)
    logs.mkdir(parents=True)
    for name, text in outcome.logs.items():
        (logs / f"{name}.log").write_text(text)
    print(f"logs of haproxy and the instances: {logs}", flush=True)
    return outcome


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
