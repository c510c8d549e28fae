"""The table at the end of `./dev chaos`."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping

from rich.table import Table

from tests.chaos.rounds import PROMISES, Verdict


def summary(verdicts: Mapping[int, Verdict], took_seconds: float) -> Table:
    """Return a table of the faults in all rounds and of the promises that were broken."""
    drawn = Table(title=f"{len(verdicts)} rounds, seeds {min(verdicts)} to {max(verdicts)}")
    drawn.add_column("what")
    drawn.add_column("how often", justify="right")
    faults: Counter[str] = sum((verdict.faults for verdict in verdicts.values()), Counter())
    for name, times in sorted(faults.items()):
        drawn.add_row(name.replace("_", " "), str(times))
    drawn.add_section()
    for name in PROMISES:
        drawn.add_row(name.replace("_", " "), str(sum(len(v.broken.get(name, [])) for v in verdicts.values())))
    drawn.add_section()
    again = sum(verdict.started_again for verdict in verdicts.values())
    drawn.add_row("replaced after two lost connections in one revision", str(again))
    seconds = [verdict.recovery_seconds for verdict in verdicts.values()]
    drawn.add_row("last fault over to all ready, median", f"{statistics.median(seconds):.1f} s")
    drawn.add_row("… worst", f"{max(seconds):.1f} s")
    drawn.add_row("all of it took", f"{took_seconds / 60:.1f} min")
    return drawn
