"""A router drops a flow that is idle for 8 s, as cloud balancers do after minutes; a long statement survives that.

Only the migration is behind the router. The log shows how long its statement took (`--log-cli-level=INFO`).
"""

import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import evidence, project
from tests.support.fleet import command, finish
from tests.support.servers import Server, embedded_postgres
from tests.support.vanishing import Namespace, namespace, run

pytestmark = pytest.mark.acceptance

log = logging.getLogger(__name__)

FORGETS_SECONDS, STATEMENT_SECONDS, PATIENCE_SECONDS = 8, 11, 14

RULES = (
    "-t nat -A POSTROUTING -j MASQUERADE",
    "-A FORWARD -m conntrack --ctstate INVALID -j DROP",
    "-A FORWARD -m conntrack --ctstate NEW -p tcp ! --syn -j DROP",
    # a packet of a forgotten flow is addressed to the router itself, which drops it instead of sending RST
    "-A INPUT -j DROP",
)
KERNEL = {
    "ipv4/ip_forward": 1,
    "netfilter/nf_conntrack_tcp_timeout_established": FORGETS_SECONDS,
    "netfilter/nf_conntrack_tcp_loose": 0,
}

WITHOUT_PROBES = f"""
import asyncio, asyncpg, sys

async def ask():
    connection = await asyncpg.connect(sys.argv[1])
    try:
        await connection.fetchval("SELECT pg_sleep({STATEMENT_SECONDS})", timeout={PATIENCE_SECONDS})
        print("answered")
    except TimeoutError:
        print("cut off")
    finally:
        connection.terminate()

asyncio.run(ask())
"""


@pytest.fixture
def router() -> Iterator[Namespace]:
    """Create a router that translates the addresses behind it and forgets an idle flow after 8 s."""
    with namespace() as made:
        for rule in RULES:
            run(*made.inside("iptables", "-w", *rule.split()))
        for name, value in KERNEL.items():
            run(*made.inside("sh", "-c", f"echo {value} > /proc/sys/net/{name}"))
        yield made


@pytest.fixture
def host(router: Namespace) -> Iterator[Namespace]:
    """Create the host behind the router."""
    with namespace(router) as made:
        yield made


@pytest.fixture
def served(router: Namespace) -> Iterator[Server]:
    """Start a server in front of the router."""
    access = f"host all postgres {router.network} trust\n"
    with embedded_postgres(access, listen_addresses=f"127.0.0.1,{router.gateway}") as started:
        yield started


def test_a_long_statement_survives_a_router_that_drops_idle_flows(
    served: Server, router: Namespace, host: Namespace, tmp_path: Path
) -> None:
    """A statement takes 11 s: a plain connection is cut off, the migration's is kept alive by both of its ends."""
    ini = project.make_history(tmp_path, project.slow("slow", STATEMENT_SECONDS), project.quick("after"))
    with served.database("behind") as url:
        there = url.replace("127.0.0.1", router.gateway)
        # in another database: a concurrent index build would wait for it
        elsewhere = there.replace("/behind", "/postgres")
        with command(host.inside(sys.executable, "-c", WITHOUT_PROBES, elsewhere), None) as plain:
            upgrade = host.inside(sys.executable, "-m", "api.migrations", "upgrade")
            began = time.monotonic()
            with command(upgrade, there, MIGRATION_ALEMBIC_CONFIG=str(ini)) as migration:
                code, output = finish(migration)
            took = time.monotonic() - began
            assert code == 0, output
            assert "Waiting for the database" not in output
            assert finish(plain) == (0, "cut off\n")
        log.info(
            "%d s in the server, forgotten after %d s: done after %.1f s", STATEMENT_SECONDS, FORGETS_SECONDS, took
        )
        assert evidence.outcomes(url, "slow") == ["applied"]
        assert evidence.marks(url) == ["after", "slow"]
        assert evidence.versions(url) == ["after"]
