"""Cancellation of asyncio tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


async def to_the_end(work: Coroutine[Any, Any, None]) -> None:
    """Complete `work`, which has its own limit, even if the caller is cancelled; then raise the cancellation."""
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

    Code may also raise `CancelledError` by itself, or pass on that of what it awaited: then the error is its own.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
