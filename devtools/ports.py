"""Free ports on 127.0.0.1."""

import os
import random
import socket
from collections.abc import Iterator

import psutil

HOST = "127.0.0.1"
HIGHEST = 65535


FIRST, IN_A_SHARE, SHARES = 10_000, 5_000, 4
"""Below the range of client ports, because a client could bind the port before the server starts."""

_given: set[int] = set()


def free_port() -> int:
    """Return a port on which no process listens and which this process has not used before.

    Each parallel test process has its own share, because a port stays free until its server listens.
    """
    first = FIRST + IN_A_SHARE * (int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % SHARES)
    while True:
        port = random.randrange(first, first + IN_A_SHARE)  # noqa: S311 - no secret
        if port not in _given and is_free(port):
            _given.add(port)
            return port


def is_free(port: int) -> bool:
    """Return whether a server could listen on `port` now."""
    listener = _listen(port)
    if listener:
        listener.close()
    return listener is not None


def listeners_from(first: int) -> Iterator[socket.socket]:
    """Yield sockets that listen on the free ports from `first` upwards; each is bound when it is requested."""
    return (listener for port in range(first, HIGHEST + 1) if (listener := _listen(port)))


def user_of(port: int) -> str:
    """Return the name and pid of the process that listens on `port`, if the system says which one it is."""
    try:
        listening = (one for one in psutil.net_connections("tcp") if one.status == psutil.CONN_LISTEN)
        pids = [one.pid for one in listening if one.laddr and one.laddr.port == port and one.pid]
        return f"{psutil.Process(pids[0]).name()} (pid {pids[0]})"
    except (IndexError, psutil.Error):
        return "another process"


def _listen(port: int) -> socket.socket | None:
    try:
        # sets SO_REUSEADDR, so a port with a connection in TIME_WAIT counts as free
        return socket.create_server((HOST, port))
    except OSError:
        return None
