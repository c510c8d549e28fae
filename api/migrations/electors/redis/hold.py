"""The state of one hold on a key in Redis, from the first try to the release."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from ..trust_window import TrustWindow


class KeyHold:
    """One hold on the key."""

    def __init__(self, token: bytes, trust_window: TrustWindow) -> None:
        self.token = token
        self.trust_window = trust_window
        self.may_be_stored = False
        """Whether the token may be in the key."""
        self.held = False
        self.reason: str | None = None
        """Why the hold is lost."""
        self.renewal_error = ""
        """Why Redis did not answer the last renewal."""
        self.lost = asyncio.Event()
        self.ending = False
        """Whether the renewal must stop."""
        self._renewal: asyncio.Task[None] | None = None

    def begin(self, renewal: Coroutine[Any, Any, None]) -> None:
        """Mark the hold as acquired, and start its renewal."""
        self.held = True
        self._renewal = asyncio.create_task(renewal, name="redis-hold")
        self._renewal.add_done_callback(self._ended)

    def lose(self, reason: str) -> None:
        """Mark the hold as lost, for good; the first reason stays."""
        self.reason = self.reason or reason
        self.lost.set()

    async def end(self) -> None:
        """Stop the renewal, even if what it awaits drops the cancellation."""
        self.ending = True
        task, self._renewal = self._renewal, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    def _ended(self, task: asyncio.Task[None]) -> None:
        # without a renewal the hold is lost, whatever the error
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self.lose(f"the renewal of the hold in Redis failed: {type(error).__name__}")
