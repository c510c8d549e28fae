"""Repeated measurements and what is shown of them: the median, and the smallest and largest."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Usage:
    """What one run of a program, or of several at once, took.

    Attributes:
        wall_seconds: from its start to the awaited event.
        cpu_seconds: user and system time of all threads and waited-for children.
        peak_bytes: the largest resident memory.
    """

    wall_seconds: float
    cpu_seconds: float = 0.0
    peak_bytes: int = 0


@dataclass(frozen=True)
class Unit:
    """How values are written: `scale` × value, with `digits` decimals and the unit's `name`."""

    name: str
    scale: float = 1.0
    digits: int = 0

    def format(self, value: float) -> str:
        """Return the value without the unit's name."""
        return f"{value * self.scale:,.{self.digits}f}"


SECONDS = Unit("s", digits=2)
MILLISECONDS = Unit("ms", scale=1000)
TIMES = Unit("×", digits=2)
MEBIBYTES = Unit("MiB", scale=2**-20)
COUNT = Unit("")
HUNDREDTHS = Unit("", digits=2)
"""For a row whose name has the unit."""


@dataclass(frozen=True)
class Spread:
    """The values of one quantity, in the order in which they were measured."""

    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return the spread of `values`, of which there is at least one."""
        return cls(tuple(values))

    @property
    def median(self) -> float:
        """The median."""
        return statistics.median(self.values)

    @property
    def smallest(self) -> float:
        """The smallest value."""
        return min(self.values)

    @property
    def largest(self) -> float:
        """The largest value."""
        return max(self.values)

    def percentile(self, percent: float) -> float:
        """Return the smallest value that at least `percent` of the values do not exceed."""
        ordered = sorted(self.values)
        return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]

    def words(self, unit: Unit) -> str:
        """Return for example `412 (398–431) ms`; a single value has no range."""
        middle = unit.format(self.median)
        if len(self.values) > 1:
            middle += f" ({unit.format(self.smallest)}–{unit.format(self.largest)})"
        return f"{middle}{unit.name}" if unit is TIMES else f"{middle} {unit.name}".rstrip()

    def over(self, other: Spread) -> Spread:
        """Return the ratios of this one's values to those that were measured beside them."""
        return Spread(tuple(mine / theirs for mine, theirs in zip(self.values, other.values, strict=True)))


def alternating(variants: Mapping[str, Callable[[], Usage]], rounds: int, warm_ups: int = 1) -> dict[str, list[Usage]]:
    """Measure the variants in turns, A B A B, so that a slow minute of the machine hits all of them.

    Args:
        variants: what to measure, by name.
        rounds: how often.
        warm_ups: how often before that, without counting it: files are then cached and modules compiled.
    """
    measured: dict[str, list[Usage]] = {name: [] for name in variants}
    for number in range(-warm_ups, rounds):
        for name, measure in variants.items():
            usage = measure()
            if number >= 0:
                measured[name].append(usage)
    return measured


def cpu(usages: Sequence[Usage]) -> Spread:
    """Return the CPU seconds of `usages`."""
    return Spread.of([usage.cpu_seconds for usage in usages])


def wall(usages: Sequence[Usage]) -> Spread:
    """Return the wall seconds of `usages`."""
    return Spread.of([usage.wall_seconds for usage in usages])


def peak(usages: Sequence[Usage]) -> Spread:
    """Return the largest resident memory of `usages` in bytes."""
    return Spread.of([usage.peak_bytes for usage in usages])
