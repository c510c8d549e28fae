"""The moment at which a service may use the schema, noted by the service itself: polling it would slow it down."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

from fastapi import FastAPI

FILE = "BENCH_READY_FILE"
"""The variable with the path of the file into which an instance writes the time, in seconds since 1970."""

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


def noting(lifespan: Lifespan) -> Lifespan:
    """Return `lifespan`, which notes the time when it is entered."""

    @asynccontextmanager
    async def noted(app: FastAPI) -> AsyncIterator[None]:
        note(Path(os.environ[FILE]), time.time())
        async with lifespan(app):
            yield

    return noted


def note(path: Path, moment: float) -> None:
    """Write a time into a file that does not exist before its content is complete."""
    part = path.with_suffix(".part")
    part.write_text(repr(moment))
    part.rename(path)
