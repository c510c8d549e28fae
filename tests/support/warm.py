"""Python processes that start fast: they are forked from a process that has already imported their libraries.

Each is a process with its own memory and signals, and a child of the process that requested it. A process in another
folder, which may have another `api`, imports `api` itself; so does one with `api.main`, which reads settings. With
TESTS_START_COLD=1, and on systems other than Linux, every process starts without this, as people start it.
"""

import atexit
import ctypes
import gc
import importlib
import inspect
import json
import os
import pkgutil
import runpy
import socket
import subprocess
import sys
import threading
import time
from functools import cache
from pathlib import Path
from typing import Any

from tests.support.waiting import FOREVER_SECONDS

LIBRARIES = """
    alembic.command alembic.config aiosqlite asyncmy asyncpg fastapi.openapi.utils lightkube.config.kubeconfig
    prometheus_client pydantic_settings redis.asyncio rich.live rich.table sqlalchemy.dialects.mysql.asyncmy
    sqlalchemy.dialects.postgresql.asyncpg sqlalchemy.dialects.sqlite.aiosqlite sqlalchemy.ext.asyncio sqlalchemy.orm
    uvicorn.lifespan.on uvicorn.logging uvicorn.loops.auto uvicorn.main uvicorn.protocols.http.auto
    uvicorn.protocols.websockets.auto
""".split()

OURS = ["api.ledger", "api.migrations"]
"""Packages of this project that can be imported before there are settings."""

PR_SET_CHILD_SUBREAPER = 36
LONGEST_MESSAGE = 1 << 17
ROOT = Path(__file__).resolve().parents[2]


class Process(subprocess.Popen[Any]):
    """A `Popen` whose process is forked by the warm one if it would be `-m` something of this run's Python."""

    def _execute_child(self, *arguments: Any) -> None:
        """Start the process: `Popen` has opened its streams, and does everything else as usual."""
        asked = inspect.signature(subprocess.Popen._execute_child).bind(self, *arguments).arguments  # type: ignore[attr-defined]
        environment = dict(os.environ if asked["env"] is None else asked["env"])
        special = asked["preexec_fn"] or asked["pass_fds"] or asked["start_new_session"]
        if special or not _has_a_warm_start(asked["args"], environment):
            super()._execute_child(*arguments)  # type: ignore[misc]
            return
        streams = {0: asked["p2cread"], 1: asked["c2pwrite"], 2: asked["errwrite"]}
        given = {number: stream for number, stream in streams.items() if stream != -1}
        folder = os.fspath(asked["cwd"] or Path.cwd())
        order = {
            "words": [str(word) for word in asked["args"][2:]],
            "cwd": folder,
            "environment": environment,
            "streams": list(given),
        }
        here = Path(folder).resolve() == ROOT
        self.pid = _warm_one().fork(here, order, list(given.values()))
        self._child_created = True
        self._close_pipe_fds(*(asked[name] for name in "p2cread p2cwrite c2pread c2pwrite errread errwrite".split()))  # type: ignore[attr-defined]


def run(command: list[str], **options: Any) -> "subprocess.CompletedProcess[str]":
    """`subprocess.run` with text and both outputs captured, within `FOREVER_SECONDS`."""
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with Process(command, **pipes, **options) as process:  # type: ignore[call-overload]
        try:
            output, errors = process.communicate(timeout=FOREVER_SECONDS)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(command, process.returncode, output, errors)


def _has_a_warm_start(words: Any, environment: dict[str, str]) -> bool:
    """Return whether nothing about the process is decided before Python's first line runs."""

    def interpreter(variables: Any) -> dict[str, str]:
        found = {name: value for name, value in variables.items() if name.startswith(("PYTHON", "LC_", "LANG"))}
        return {**found, "PYTHONUNBUFFERED": "1"}

    plain = isinstance(words, list) and [os.fspath(word) for word in words[:2]] == [sys.executable, "-m"]
    same = interpreter(environment) == interpreter(os.environ)
    return sys.platform == "linux" and plain and same and not os.environ.get("TESTS_START_COLD")


class Warm:
    """The two processes that fork, as seen by the requesting process; they exit when that process does.

    The first has imported the libraries; the second is its child and has imported `OURS` besides.
    """

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None)
        self._one_at_a_time = threading.Lock()
        pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(2)]
        self._elsewhere, self._here = (mine for mine, _ in pairs)
        numbers = [its.fileno() for _, its in pairs]
        # libraries keep the sys.stdout of their import, so it must be unbuffered then
        unbuffered = {**os.environ, "PYTHONUNBUFFERED": "1"}
        command = [sys.executable, "-m", "tests.support.warm", *map(str, numbers)]
        self._process = subprocess.Popen(command, cwd=ROOT, env=unbuffered, pass_fds=numbers, start_new_session=True)
        for _, its in pairs:
            its.close()

    def fork(self, here: bool, order: dict[str, Any], streams: list[int]) -> int:
        """Request a fork, with `OURS` if it runs `here`; this process adopts it as an orphan. Return its pid."""
        with self._one_at_a_time:
            return self._fork(self._here if here else self._elsewhere, order, streams)

    def _fork(self, channel: socket.socket, order: dict[str, Any], streams: list[int]) -> int:
        self._libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        try:
            socket.send_fds(channel, [json.dumps(order).encode()], streams)
            return int(channel.recv(64))
        finally:
            # other orphans must not be adopted
            self._libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)

    def close(self) -> None:
        """End the forking processes."""
        self._here.close()
        self._elsewhere.close()
        self._process.wait()


@cache
def _warm_one() -> Warm:
    warm = Warm()
    atexit.register(warm.close)
    return warm


def fork_for(channel: socket.socket) -> dict[str, Any]:
    """Fork a process for each request until the channel is closed; return in each fork, with its request."""
    while True:
        message, streams, _, _ = socket.recv_fds(channel, LONGEST_MESSAGE, 3)
        if not message:
            sys.exit()
        reading, writing = os.pipe()
        between = os.fork()
        if between == 0:
            pid = os.fork()
            if pid == 0:
                os.close(reading)
                os.close(writing)
                channel.close()
                return take(json.loads(message), streams)
            os.write(writing, str(pid).encode())
            os._exit(0)
        # the requesting process adopts the child once the intermediate process has exited
        os.waitpid(between, 0)
        os.close(writing)
        channel.send(os.read(reading, 64))
        for number in (reading, *streams):
            os.close(number)


def take(order: dict[str, Any], streams: list[int]) -> dict[str, Any]:
    """Become the process that was requested."""
    for number, stream in zip(order["streams"], streams, strict=True):
        os.dup2(stream, number)
    for stream in streams:
        os.close(stream)
    os.chdir(order["cwd"])
    os.environ.clear()
    os.environ.update(order["environment"])
    time.tzset()
    return order


def channel_of_two(elsewhere: socket.socket, here: socket.socket) -> socket.socket:
    """Fork the process that serves `here`; return the channel that the process serves in which this returns."""
    if os.fork():
        here.close()
        return elsewhere
    elsewhere.close()
    # the first request, or the end of the requesting process
    if here.recv(1, socket.MSG_PEEK):
        for package in map(importlib.import_module, OURS):
            for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
                if not module.name.endswith(".__main__"):
                    importlib.import_module(module.name)
        freeze()
    return here


def freeze() -> None:
    """Keep the garbage collector away from what was imported, which forks share until they write to it."""
    gc.collect()
    gc.freeze()


def main() -> None:
    """Import the libraries, fork on request, and run the requested module in each fork."""
    elsewhere, here = (socket.socket(fileno=int(number)) for number in sys.argv[1:])
    for name in LIBRARIES:
        importlib.import_module(name)
    freeze()
    order = fork_for(channel_of_two(elsewhere, here))
    sys.path[0] = order["cwd"]
    sys.argv = order["words"]
    runpy.run_module(order["words"][0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
