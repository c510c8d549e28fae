"""The record of a Lease, how long it was observed unchanged, and the pure decision that follows."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import Enum, auto

LONGEST_DOUBT_SECONDS = 5.0
JITTER_FACTOR = 1.2
"""Of client-go: a pause is longer by up to this part of itself, so that requests of the instances spread."""


@dataclass(frozen=True)
class LeaseTimings:
    """The durations of an election, in seconds, with client-go's proportions: 15, 10 and 2."""

    lease_seconds: int

    @property
    def renew_deadline_seconds(self) -> float:
        """How long the holder trusts a renewal. The rest is for a COMMIT, before another instance may take over."""
        return self.lease_seconds * 2 / 3

    @property
    def retry_seconds(self) -> float:
        """The pause after a failed renewal, and the shortest pause after a successful one."""
        return self.lease_seconds * 2 / 15

    @property
    def request_seconds(self) -> float:
        """Limit of one request: several that hang fit into the renew deadline."""
        return self.renew_deadline_seconds / 4

    @property
    def doubt_seconds(self) -> float:
        """How long a refusal must last to be final: a restarted API server refuses everything at first."""
        return min(LONGEST_DOUBT_SECONDS, self.lease_seconds / 3)

    def pause(self) -> float:
        """Return the jittered pause after a renewal."""
        return self.retry_seconds * (1 + random.uniform(0, JITTER_FACTOR))  # noqa: S311 - spreads load, guards nothing


@dataclass(frozen=True)
class LeaseRecord:
    """The spec of a Lease. An empty `holder` means that no instance holds it."""

    holder: str
    lease_seconds: int
    acquired: datetime | None = None
    renewed: datetime | None = None
    """By the holder's wall clock, so never compared with another clock."""
    transitions: int = 0

    @classmethod
    def first(cls, holder: str, lease_seconds: int) -> LeaseRecord:
        """Return the record of a Lease that is created."""
        now = wall_clock()
        return cls(holder, lease_seconds, now, now)

    def taken(self, holder: str, lease_seconds: int) -> LeaseRecord:
        """Return the record after another holder acquired the Lease."""
        return replace(LeaseRecord.first(holder, lease_seconds), transitions=self.transitions + 1)

    def kept(self, lease_seconds: int) -> LeaseRecord:
        """Return the record after its holder renewed it."""
        return replace(self, renewed=wall_clock(), lease_seconds=lease_seconds)

    def released(self) -> LeaseRecord:
        """Return the record after a release. It lasts one second for followers that ignore an empty holder."""
        now = wall_clock()
        return replace(self, holder="", lease_seconds=1, acquired=now, renewed=now)


@dataclass(frozen=True)
class ObservedLease:
    """A record as it was read last, and the moment on this instance's monotonic clock since which it is unchanged."""

    record: LeaseRecord | None = None
    since: float = 0.0

    def updated(self, record: LeaseRecord | None, now: float) -> ObservedLease:
        """Return the observation after the record was read again."""
        return self if record == self.record else ObservedLease(record, now)

    def expired(self, now: float) -> bool:
        """Whether the holder has not renewed the record for the duration that the record states."""
        return self.record is not None and now >= self.since + self.record.lease_seconds


class Step(Enum):
    """What a candidate may do."""

    CREATE = auto()
    TAKE = auto()
    KEEP = auto()
    """The record names the candidate: its own try succeeded, but the answer was lost."""
    WAIT = auto()


def next_step(
    record: LeaseRecord | None, observed: ObservedLease, now: float, identity: str
) -> tuple[Step, ObservedLease]:
    """Return what `identity` may do at `now` after it read `record`, and the updated observation."""
    observed = observed.updated(record, now)
    if record is None:
        return Step.CREATE, observed
    if record.holder == identity:
        return Step.KEEP, observed
    return Step.TAKE if not record.holder or observed.expired(now) else Step.WAIT, observed


def wall_clock() -> datetime:
    """Return the time for the record, never a whole second: the API server does not parse a time without fraction."""
    now = datetime.now(UTC)
    return now.replace(microsecond=max(now.microsecond, 1))
