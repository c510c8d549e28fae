"""One hold on a key in Redis, from the first try to the release: whose token, how far trusted, and how it ended."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from ..trust_window import TrustWindow


class KeyHold:
    """One hold, from the first try to the release."""

    def __init__(self, token: bytes, trust: TrustWindow) -> None:
        self.token = token
        self.trust = trust
        self.asked = False
        """Whether the token may be in the key."""
        self.held = False
        self.reason: str | None = None
        """Why it is lost."""
        self.silence = ""
        """Why Redis does not say whether it is ours."""
        self.gone = asyncio.Event()
        self.ending = False
        """Whether it is not to be renewed any more."""
        self._renewal: asyncio.Task[None] | None = None

    def begin(self, renewal: Coroutine[Any, Any, None]) -> None:
        """It is ours, and renews itself."""
        self.held = True
        self._renewal = asyncio.create_task(renewal, name="redis-hold")
        self._renewal.add_done_callback(self._ended)

    def lose(self, reason: str) -> None:
        """It is lost, for good; the first reason stands."""
        self.reason = self.reason or reason
        self.gone.set()

    async def end(self) -> None:
        """Stop the renewal, also where what it awaits drops the cancellation."""
        self.ending = True
        task, self._renewal = self._renewal, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    def _ended(self, task: asyncio.Task[None]) -> None:
        # whatever ended it, nobody renews any more
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self.lose(f"the renewal of the hold in Redis failed: {type(error).__name__}")
