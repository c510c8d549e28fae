"""The command line of `./dev bench`."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bench.catalogue import MEASURES, Measure, chosen
from bench.command import DONE, FAILED, carry_out, number, screen
from bench.errors import BenchError, Skipped
from bench.laboratory import CACHE, ROOT, Laboratory, laboratory
from bench.machine import machine, moment, versions
from bench.report import Section, drawn, write


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line.

    Raises:
        SystemExit: it is invalid; argparse has printed why.
    """
    parser = argparse.ArgumentParser(
        prog="./dev bench",
        description="Measure this project beside bare Alembic, the usual recipe and other tools, and write "
        "docs/benchmarks.md. Nothing else may run on the machine meanwhile.",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="measures to run (default: all); see --list")
    parser.add_argument("--list", action="store_true", help="list the measures")
    parser.add_argument(
        "--quick", action="store_true", help="small sizes, to see that everything works; written to .data/bench/quick"
    )
    parser.add_argument("--no-write", action="store_true", help="only print the tables")
    parser.add_argument("--rounds", type=number(1, 1000), metavar="N", help="measure each variant N times")
    options = parser.parse_args(arguments)
    try:
        options.measures = chosen(options.names)
    except LookupError as error:
        parser.error(str(error))
    return options


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code: 1 if a measure failed. A missed goal is a result, not a failure."""
    options = parse(arguments)
    if options.list:
        width = max(len(measure.name) for measure in MEASURES)
        print("\n".join(f"{measure.name:{width}}  {measure.title}" for measure in MEASURES))
        return DONE
    into = CACHE / "quick" if options.quick else ROOT / "docs"

    def work() -> int:
        with laboratory(quick=options.quick, rounds=options.rounds) as lab:
            return _run(lab, options.measures, None if options.no_write else into)

    return carry_out("dev bench", work)


def _run(lab: Laboratory, measures: Sequence[Measure], into: Path | None) -> int:
    console = screen()
    about = machine(), versions(lab.database.version)
    print(*about, sep="\n", flush=True)
    failed = 0
    for measure in measures:
        began, when = time.monotonic(), moment()
        try:
            section = Section(measure, measure.run(lab), when)
        except (BenchError, Skipped) as error:
            failed += isinstance(error, BenchError)
            print(f"\n{measure.name}: {error}", flush=True)
            continue
        console.print("", drawn(measure.title, section.table), highlight=False, sep="\n")
        print(f"{measure.name}: {section.table.missed} goals missed; {time.monotonic() - began:.0f} s", flush=True)
        if into:
            # after each measure, because the whole run takes long and may be interrupted
            print(f"written to {write(into, [section], *about)}", flush=True)
    return FAILED if failed else DONE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
