"""Runs revisions on another connection, in a thread, while a session holds the lock.

It is the connection that `env.py` opens, or one with the driver that the URL names. Its driver may block (psycopg2),
and `env.py` may call `asyncio.run`, so neither belongs on the loop.
The loop keeps the first session alive, and ends the second one if the run is cancelled.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Protocol, cast

import sqlalchemy as sa

from ..core.protocols import MigrationRequest, ProgressListener
from ..execution.migration_lock import ReleasableLock
from ..execution.runner import OpenConnection, Runner
from ..runtime.cancellation import to_the_end
from ..runtime.thread import start_blocking

BEAT_SECONDS = 5.0
"""How often the first session executes a statement, at most: the server terminates it when it is idle for too long."""
STOP_SECONDS = 5.0
"""How long a cancelled run may take to end; after that its thread is left alone, because it can write nothing."""


class SecondSession(Protocol):
    """What the database does for a run on another connection than the lock's."""

    idle_seconds: float
    """How long the first session may be idle before the server terminates it; 0 means for ever."""

    def acquire(self, connection: sa.Connection) -> ReleasableLock:
        """Secure `connection` and limit its session; no transaction is open afterwards.

        Raises:
            ForeignConnection: it is a connection to another database, or one in autocommit.
            DatabaseUnreachable: the session of a dead process still runs revisions; may be retried.
        """

    async def beat(self) -> None:
        """Execute a statement on the first session."""

    async def end(self) -> None:
        """Stop the current statement; the run executes none after it. The errors are the driver's."""


async def run_on_second(
    runner: Runner,
    open_connection: OpenConnection | None,
    second: SecondSession,
    request: MigrationRequest,
    listener: ProgressListener,
) -> None:
    """Run the request once on the connection that `open_connection` opens; with None `env.py` does.

    Raises:
        MigrationError: as `Runner.run_on_second` does.
    """
    stopped = threading.Event()
    on_loop = cast(ProgressListener, _OnLoop(listener, asyncio.get_running_loop()))
    run = partial(runner.run_on_second, open_connection, second.acquire, request, on_loop, stopped.is_set)
    work = start_blocking(run, "revisions")
    try:
        await _finished(work, second)
    except BaseException:
        stopped.set()
        await to_the_end(_stop(work, second))
        raise


async def _finished(work: asyncio.Future[None], second: SecondSession) -> None:
    beat_seconds = min(BEAT_SECONDS, second.idle_seconds / 4 or BEAT_SECONDS)
    while not work.done():
        await asyncio.wait({work}, timeout=beat_seconds)
        if not work.done():
            await second.beat()
    work.result()


async def _stop(work: asyncio.Future[None], second: SecondSession) -> None:
    if not work.done():
        with suppress(Exception):  # if the server does not answer, the session ends when it misses its client
            await second.end()
    # it is known why it fails, also if it fails later
    work.add_done_callback(lambda done: done.cancelled() or done.exception())
    await asyncio.wait({work}, timeout=STOP_SECONDS)


class _OnLoop:
    """Calls the methods of a `ProgressListener` on the loop, in order, from any thread."""

    def __init__(self, listener: ProgressListener, loop: asyncio.AbstractEventLoop) -> None:
        self._listener = listener
        self._loop = loop

    async def between(self) -> None:
        """Return: this thread is stopped at its next statement."""

    def __getattr__(self, name: str) -> Callable[..., object]:
        return partial(self._loop.call_soon_threadsafe, cast(Any, getattr(self._listener, name)))
