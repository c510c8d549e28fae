"""The measures of `./dev bench`, in the order in which they run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module

from bench.laboratory import Laboratory
from bench.table import Table


@dataclass(frozen=True)
class Measure:
    """A measure: its name on the command line, which is that of its module, and its heading in the report."""

    name: str
    title: str

    @property
    def run(self) -> Callable[[Laboratory], Table]:
        """The function that measures."""
        measure: Callable[[Laboratory], Table] = import_module(f"bench.measures.{self.name}").measure
        return measure


MEASURES = (
    Measure("start", "Process start to the first 200, at head"),
    Measure("upgrade", "500 small revisions"),
    Measure("at_head", "`upgrade` with nothing to do"),
    Measure("ready", "The last revision's COMMIT to ready"),
    Measure("killed", "The lock holder is killed in a statement of 6 s"),
    Measure("waiters", "What 50 waiters cost the database in a minute"),
    Measure("folder", "10 to 10,000 revisions in the folder"),
    Measure("answers", "Probes"),
    Measure("crowd", "300 instances on max_connections=100"),
    Measure("peers", "Other migration tools"),
)


def chosen(names: Sequence[str]) -> list[Measure]:
    """Return the measures with these names in the order of the catalogue, or all of them.

    Raises:
        LookupError: there is no measure of that name; the message lists the names.
    """
    known = {measure.name: measure for measure in MEASURES}
    for name in names:
        if name not in known:
            raise LookupError(f"there is no measure {name!r}. To fix: choose from {', '.join(known)}")
    return [measure for measure in MEASURES if not names or measure.name in names]
