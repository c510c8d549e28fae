"""What a Lease says, since when it has said that, and what follows from it: values and one pure decision."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import Enum, auto

LONGEST_DOUBT_SECONDS = 5.0
JITTER_FACTOR = 1.2
"""Of client-go: a pause is up to this much of itself longer, so that holders and followers spread."""


@dataclass(frozen=True)
class LeaseTimings:
    """The durations of an election, in seconds, in client-go's proportions: 15, 10 and 2."""

    lease_seconds: int

    @property
    def renew_deadline_seconds(self) -> float:
        """For how long the holder trusts a renewal; the rest is what a COMMIT may take before anybody takes over."""
        return self.lease_seconds * 2 / 3

    @property
    def retry_seconds(self) -> float:
        """From one renewal to the next at least, and from one that failed to the next."""
        return self.lease_seconds * 2 / 15

    @property
    def request_seconds(self) -> float:
        """Limit of one request: a few that hang fit into the renew deadline."""
        return self.renew_deadline_seconds / 4

    @property
    def doubt_seconds(self) -> float:
        """For how long a refusal must last to be believed: a restarted API server refuses everything at first."""
        return min(LONGEST_DOUBT_SECONDS, self.lease_seconds / 3)

    def pause(self) -> float:
        """From a renewal to the next one."""
        return self.retry_seconds * (1 + random.uniform(0, JITTER_FACTOR))  # noqa: S311 - spreads load, guards nothing


@dataclass(frozen=True)
class LeaseRecord:
    """The spec of a Lease; an empty `holder` is nobody."""

    holder: str
    lease_seconds: int
    acquired: datetime | None = None
    renewed: datetime | None = None
    """By the holder's wall clock: compared with itself, never with ours."""
    transitions: int = 0

    @classmethod
    def first(cls, holder: str, lease_seconds: int) -> LeaseRecord:
        """Of a Lease that is created."""
        now = wall_clock()
        return cls(holder, lease_seconds, now, now)

    def taken(self, holder: str, lease_seconds: int) -> LeaseRecord:
        """By somebody else than before."""
        return replace(LeaseRecord.first(holder, lease_seconds), transitions=self.transitions + 1)

    def kept(self, lease_seconds: int) -> LeaseRecord:
        """Renewed by its holder."""
        return replace(self, renewed=wall_clock(), lease_seconds=lease_seconds)

    def released(self) -> LeaseRecord:
        """Given back: to followers that miss the empty holder it ends after a second, as with client-go."""
        now = wall_clock()
        return replace(self, holder="", lease_seconds=1, acquired=now, renewed=now)


@dataclass(frozen=True)
class ObservedLease:
    """A record as it was last seen, and the moment on our monotonic clock since which it has not changed."""

    record: LeaseRecord | None = None
    since: float = 0.0

    def updated(self, record: LeaseRecord | None, now: float) -> ObservedLease:
        """The sighting after another look."""
        return self if record == self.record else ObservedLease(record, now)

    def expired(self, now: float) -> bool:
        """Whether its holder has renewed nothing for as long as it said that its hold lasts."""
        return self.record is not None and now >= self.since + self.record.lease_seconds


class Step(Enum):
    """What a candidate may do."""

    CREATE = auto()
    TAKE = auto()
    KEEP = auto()
    """The record names the candidate: its own try succeeded, though the answer was lost."""
    WAIT = auto()


def decide(
    record: LeaseRecord | None, observed: ObservedLease, now: float, identity: str
) -> tuple[Step, ObservedLease]:
    """What `identity` may do at `now` about the `record` it has just read, and what it has observed by now."""
    seen = observed.updated(record, now)
    if record is None:
        return Step.CREATE, seen
    if record.holder == identity:
        return Step.KEEP, seen
    return Step.TAKE if not record.holder or seen.expired(now) else Step.WAIT, seen


def wall_clock() -> datetime:
    """The time for people to read.

    Never at a whole second: it would be written without its six digits, which the API server does not parse.
    """
    now = datetime.now(UTC)
    return now.replace(microsecond=max(now.microsecond, 1))
