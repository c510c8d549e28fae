"""The setting of the rounds: one server, and hosts that can be cut off from it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import pytest

from devtools.ports import HOST
from tests.support.servers import Server, embedded_postgres
from tests.support.vanishing import Namespace, namespace


@dataclass(frozen=True)
class Lab:
    """A server that listens on this machine and on the networks of `hosts`."""

    server: Server
    hosts: tuple[Namespace, ...] = ()

    def host(self, number: int) -> Namespace | None:
        """Return the host of the instance of that number, in turn; None if there are no hosts."""
        return self.hosts[number % len(self.hosts)] if self.hosts else None


@contextmanager
def laboratory(hosts: int = 0, **settings: str) -> Iterator[Lab]:
    """Start a server, with `settings`, and make its hosts; skips where the machine has no network namespaces."""
    with ExitStack() as stack:
        made = [stack.enter_context(namespace()) for _ in range(hosts)]
        access = "".join(f"host all postgres {host.network} trust\n" for host in made)
        addresses = ",".join([HOST, *(host.gateway for host in made)])
        server = stack.enter_context(embedded_postgres(access, listen_addresses=addresses, **settings))
        yield Lab(server, tuple(made))


def why_no_hosts() -> str | None:
    """Return what this machine lacks to make hosts; None if it lacks nothing."""
    try:
        with namespace():
            return None
    except pytest.skip.Exception as missing:
        return str(missing)
