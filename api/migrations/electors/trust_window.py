"""How long an instance may rely on a hold that ends by time."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class TrustWindow:
    """The time during which no other instance can have the hold. Moments are seconds on the monotonic clock.

    The server counts its ttl from the moment it acted, between request and answer. Only the start of the request is
    safe: counted from the answer, a slow answer would extend the hold beyond what the server grants.
    """

    trusted_seconds: float
    """How long one grant is trusted: a part of the server's ttl."""
    until: float = float("-inf")

    def granted(self, asked_at: float) -> None:
        """Extend the window for a request that the server granted; an earlier request does not shorten it."""
        self.until = max(self.until, asked_at + self.trusted_seconds)

    def left(self, now: float) -> float:
        """The seconds that remain, never negative."""
        return max(0.0, self.until - now)
