"""How long a hold that ends by time may be relied on: a value, fed with moments of the monotonic clock."""

from __future__ import annotations

from dataclasses import dataclass

MARGIN = 6
"""What part of the ttl is not counted on: clocks that run at different speeds, and the COMMIT after a confirmation."""


@dataclass
class TrustWindow:
    """Until when nobody else can have the hold, as far as this instance can know.

    The server counts the ttl from the moment it acted, which lies between question and answer. Only the earlier of the
    two is safe: counted from the answer, a slow one would stretch the hold beyond what the server grants.
    """

    ttl_seconds: float
    until: float = float("-inf")
    """On the monotonic clock."""

    def granted(self, asked_at: float) -> None:
        """The server said yes to what it was asked at that moment; an earlier answer takes nothing back."""
        self.until = max(self.until, asked_at + self.ttl_seconds * (1 - 1 / MARGIN))

    def left(self, now: float) -> float:
        """Seconds for which it still holds, never negative."""
        return max(0.0, self.until - now)
