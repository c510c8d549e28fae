"""What a rollout was like: the requests in each phase, the waits for locks, and which instances migrated."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.rollout.probe import Stall
from bench.rollout.sample import Sample


@dataclass(frozen=True)
class Size:
    """How large a rollout is.

    Attributes:
        postings: in the table before the deploy.
        rate: requests in a second.
        instances: of each release.
        quiet_seconds: of load before, between and after the changes.
        settle_seconds: between a new instance that is ready and the SIGTERM of an old one, and after that.
        report_seconds: how long the report stays open after the migration has begun.
    """

    postings: int
    rate: int
    instances: int
    quiet_seconds: float
    settle_seconds: float
    report_seconds: float


FULL = Size(1_000_000, 200, 3, 15.0, 2.0, 10.0)
QUICK = Size(5_000, 20, 2, 0.5, 0.3, 1.5)


@dataclass(frozen=True)
class Event:
    """Something that the supervisor did or saw, at `at` seconds since 1970."""

    at: float
    words: str


@dataclass(frozen=True)
class Phase:
    """A part of the rollout, from `began` to `ended` in seconds since 1970."""

    name: str
    began: float
    ended: float

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.ended - self.began

    def contains(self, at: float) -> bool:
        """Whether a moment is in it."""
        return self.began <= at < self.ended


@dataclass
class Outcome:
    """All that was measured of one variant.

    Attributes:
        variant: its name.
        generator: what sent the requests.
        stalls: the waits of the probe, and of the service's sessions.
        migrators: the instances that applied a revision in the deploy; None if the variant keeps no record.
        logs: what the instances wrote, and haproxy: a line for each request that failed or was repeated.
    """

    variant: str
    generator: str
    size: Size
    phases: list[Phase] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    stalls: list[Stall] = field(default_factory=list)
    migrators: list[str] | None = None
    logs: dict[str, str] = field(default_factory=dict)

    def of(self, phase: Phase) -> list[Sample]:
        """Return the requests that were sent in a phase."""
        return [sample for sample in self.samples if phase.contains(sample.at)]

    def phase(self, name: str) -> Phase | None:
        """Return the phase of that name, if the rollout had it."""
        return next((phase for phase in self.phases if phase.name == name), None)

    def longest_stall(self) -> Stall:
        """Return the longest wait for a lock."""
        return max(self.stalls, key=lambda stall: stall.seconds)


def failures(samples: Sequence[Sample]) -> list[Sample]:
    """Return the requests that failed."""
    return [sample for sample in samples if sample.failed]


def kinds(samples: Sequence[Sample]) -> Counter[str]:
    """Count the failures by their kind."""
    return Counter(sample.kind for sample in samples if sample.failed)
