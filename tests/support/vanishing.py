"""A host that vanishes: a network namespace behind a veth pair, whose packets can be dropped.

The test's own network is one end of the pair, the namespace the other; a second one may be behind it. The addresses
are out of 198.18.0.0/15, which is reserved for tests of networks, and exist only as long as the pair does.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count

from devtools.ports import HOST
from tests.support.servers import optional

REMEDY = "run as root with CAP_NET_ADMIN, apt-get install iproute2 iptables"

_numbers = count()


@dataclass(frozen=True)
class Namespace:
    """A network namespace that is a host of its own for the network.

    Attributes:
        name: for `ip netns exec`.
        address: its own.
        gateway: the address under which it reaches this machine.
        network: both addresses of the pair, for pg_hba.conf.
    """

    name: str
    address: str
    gateway: str
    network: str

    def inside(self, *words: str) -> list[str]:
        """Return a command that runs in it."""
        return ["ip", "netns", "exec", self.name, *words]

    def there(self, url: str) -> str:
        """Return a URL of this machine's server as a process inside must write it."""
        return url.replace(HOST, self.gateway)

    @contextmanager
    def vanished(self) -> Iterator[None]:
        """Drop all packets silently within the block; afterwards the host is back, with all that runs on it."""
        with self._dropped("INPUT"), self._dropped("OUTPUT"):
            yield

    @contextmanager
    def cut_off(self, port: int) -> Iterator[None]:
        """Drop the packets from and to one port of this machine within the block, and let all others pass."""
        with (
            self._dropped("INPUT", "-p", "tcp", "--sport", str(port)),
            self._dropped("OUTPUT", "-p", "tcp", "--dport", str(port)),
        ):
            yield

    @contextmanager
    def _dropped(self, *packets: str) -> Iterator[None]:
        command = self.inside("iptables", "-w")
        run(*command, "-I", *packets, "-j", "DROP")
        try:
            yield
        finally:
            run(*command, "-D", *packets, "-j", "DROP")


@contextmanager
def namespace(router: Namespace | None = None) -> Iterator[Namespace]:
    """Make a namespace, joined to this machine or to `router`; remove it with its pair and its rules.

    Skips where that is not allowed.
    """
    if os.geteuid() != 0 or not all(map(shutil.which, ("ip", "iptables"))):
        optional("network namespaces", REMEDY)
    # other test runs on this machine make their own; three bits are for this run
    number = (8 * os.getpid() + next(_numbers) % 8) % 16384
    kind, block = ("vanishing", 18) if router is None else ("behind", 19)
    name, here, there = f"{kind}-{number}", f"{kind[0]}h{number}", f"{kind[0]}t{number}"
    net = f"198.{block}.{number // 64}.{number % 64 * 4}"
    stem, _, last = net.rpartition(".")
    gateway, address = (f"{stem}.{int(last) + n}" for n in (1, 2))
    outside = router.inside if router else lambda *words: list(words)
    if subprocess.run(["ip", "netns", "add", name], capture_output=True).returncode != 0:
        optional("network namespaces", REMEDY)
    made = Namespace(name, address, gateway, f"{net}/30")
    try:
        run(*outside("ip", "link", "add", here, "type", "veth", "peer", "name", there, "netns", name))
        run(*outside("ip", "address", "add", f"{gateway}/30", "dev", here))
        run(*outside("ip", "link", "set", here, "up"))
        run(*made.inside("ip", "address", "add", f"{address}/30", "dev", there))
        run(*made.inside("ip", "link", "set", there, "up"))
        run(*made.inside("ip", "link", "set", "lo", "up"))
        run(*made.inside("ip", "route", "add", "default", "via", gateway))
        yield made
    finally:
        # deleting one end deletes the pair
        subprocess.run(outside("ip", "link", "delete", here), capture_output=True)
        run("ip", "netns", "delete", name)


def run(*words: str) -> None:
    """Run a command that must not fail."""
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"
