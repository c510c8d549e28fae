"""Free ports on 127.0.0.1."""

import socket
from collections.abc import Iterator

HOST = "127.0.0.1"
HIGHEST = 65535


def free_port() -> int:
    """A port nobody listens on, out of the range the system hands out."""
    with socket.create_server((HOST, 0)) as probe:
        port: int = probe.getsockname()[1]
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
