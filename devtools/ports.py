"""Free ports on 127.0.0.1."""

import os
import random
import socket
from collections.abc import Iterator

HOST = "127.0.0.1"
HIGHEST = 65535


FIRST, IN_A_SHARE, SHARES = 10_000, 5_000, 4
"""Below the range out of which the system gives ports to clients: one of those may take it before the server starts."""

_given: set[int] = set()


def free_port() -> int:
    """A port nobody listens on, and that this process has not been given before.

    Each of the processes on which tests run at once has a share of its own: until its server listens, a port that one
    of them was given is free to the others.
    """
    first = FIRST + IN_A_SHARE * (int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % SHARES)
    while True:
        port = random.randrange(first, first + IN_A_SHARE)  # noqa: S311 - no secret
        if port not in _given and is_free(port):
            _given.add(port)
            return port


def is_free(port: int) -> bool:
    """Whether a server could listen on `port` right now."""
    listener = _listen(port)
    if listener:
        listener.close()
    return listener is not None


def listeners_from(first: int) -> Iterator[socket.socket]:
    """Sockets that listen on the ports from `first` upwards that nobody has; each is ours from when it is asked for."""
    return (listener for port in range(first, HIGHEST + 1) if (listener := _listen(port)))


def _listen(port: int) -> socket.socket | None:
    try:
        # it sets SO_REUSEADDR, so a connection in TIME_WAIT does not count as taken
        return socket.create_server((HOST, port))
    except OSError:
        return None
