"""Cancellation: what must be done however often its waiter is cancelled, and whether anything was cancelled at all."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


async def to_the_end(work: Coroutine[Any, Any, None]) -> None:
    """Do `work`, which has a limit of its own; a cancellation meanwhile is raised once it is done."""
    task = asyncio.create_task(work, name="to-the-end")
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancelled = error
    task.result()
    if cancelled is not None:
        raise cancelled


def is_cancelled() -> bool:
    """Whether the current task is being cancelled.

    Code may raise `CancelledError` by itself, or let through that of something it awaited: that is its own failure.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
