"""What must be done however often whoever waits for it is cancelled: Ctrl-C twice, or SIGTERM after a timeout."""

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
