"""Free ports on 127.0.0.1."""

import random
import socket
from collections.abc import Iterator

HOST = "127.0.0.1"
HIGHEST = 65535


_given: set[int] = set()


def free_port() -> int:
    """A port nobody listens on, and that this process has not been given before.

    Below the range out of which the system gives ports to clients: one of those may take it before the server starts.
    """
    while True:
        port = random.randrange(10_000, 30_000)  # noqa: S311 - no secret
        if port not in _given and is_free(port):
            _given.add(port)
            return port


def free_ports_from(first: int) -> Iterator[int]:
    """The ports from `first` upwards that nobody listens on, each tried when it is asked for."""
    return (port for port in range(first, HIGHEST + 1) if is_free(port))


def is_free(port: int) -> bool:
    """Whether a server could listen on `port` right now."""
    try:
        # create_server sets SO_REUSEADDR as uvicorn does, so a connection in TIME_WAIT does not count as taken
        socket.create_server((HOST, port)).close()
    except OSError:
        return False
    return True
