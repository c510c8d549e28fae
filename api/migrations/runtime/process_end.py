"""Ends a process: one whose start failed, in order and with an exit code that is not 0, and a command at once.

Every server shuts down in order at SIGTERM. Afterwards uvicorn raises the signal again with its default action, so the
process ends with 143; but process 1 of a container ignores the default action, and other servers end with 0.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import signal
import sys
import threading
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import NoReturn

EXIT_CODE = 3
"""The exit code if SIGTERM does not end the process; uvicorn and gunicorn use it for a failed start."""

_until_the_loop_closes: list[AsyncGenerator[None, None]] = []


def leave(exit_code: int) -> NoReturn:
    """End this process now, after its threads, its exit functions and its output.

    `sys.exit` also clears every module, which takes longer than all that follows the last COMMIT. `multiprocessing`
    ends its processes so.
    """
    try:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):  # a closed pipe does not change the exit code
                stream.flush()
    finally:
        os._exit(exit_code)


async def end_process() -> None:
    """Ask the server to shut down; afterwards the process ends with 143, or with `EXIT_CODE`."""
    exit_code = _exit_code()
    await anext(exit_code)
    _until_the_loop_closes.append(exit_code)
    os.kill(os.getpid(), signal.SIGTERM)
    if os.environ.get("SERVER_SOFTWARE", "").startswith("gunicorn"):
        # Uvicorn has received the signal and raises it again at the end. That must not end a worker: gunicorn replaces
        # a worker that a signal ended, again and again, and stops if a worker ends with 3.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})


async def _exit_code() -> AsyncGenerator[None, None]:
    # a loop closes its generators last, after the server and every task have ended
    try:
        yield
    finally:
        asyncio.get_running_loop().call_soon(sys.exit, EXIT_CODE)
