"""One application object whose lifespan is started more than once, as test suites do."""

import asyncio
from functools import partial
from pathlib import Path

import pytest
from fastapi import FastAPI
from starlette.middleware.gzip import GZipMiddleware
from starlette.types import Receive, Scope, Send

from api.migrations import MigrationSettings, lifespan_with_migrations
from api.migrations.startup_integration import MigrationLifespan
from api.migrations.web.gate import Gate
from tests.integration.served import Pool, Served, service, settings
from tests.support.fakes import FOREVER_SECONDS, tree
from tests.support.waiting import wait_until

CREATE = 'op.execute("CREATE TABLE t (a int)")'
ORDERS = [("failed", "ready"), ("off", "failed"), ("ready", "failed", "off"), ("failed", "failed", "ready", "ready")]


@pytest.mark.parametrize("phases", ORDERS, ids="-".join)
@pytest.mark.parametrize("mode", ["gate", "block"])
async def test_an_application_may_be_started_again(tmp_path: Path, mode: str, phases: tuple[str, ...]) -> None:
    """As test suites do: gate, health and metrics tell of the start that is going on, and nothing is piled up."""
    url, ini = f"sqlite:///{tmp_path / 'again.db'}", tree(tmp_path, CREATE)
    starts = {
        "ready": settings(url, ini, startup_mode=mode, strategy="advisory_lock"),
        "failed": settings(url, tmp_path / "none.ini", startup_mode=mode, strategy="advisory_lock"),
        "off": settings(url, ini, startup_mode=mode, strategy="off"),
    }
    app, shapes = service(MigrationLifespan()), []
    for phase in phases:
        app.router.lifespan_context = MigrationLifespan(starts[phase])
        async with Served(app) as served:
            await asyncio.to_thread(wait_until, partial(settled, app), "the outcome", seconds=FOREVER_SECONDS)
            answers = [await served.get(path) for path in ("/", "/health/ready", "/health/migrations", "/metrics")]
        expected = 503 if phase == "failed" else 200
        assert [answer.status_code for answer in answers] == [expected, expected, expected, 200]
        assert answers[2].json()["phase"] == phase
        assert f'migration_phase{{phase="{phase}"}} 1.0' in answers[3].text
        shapes.append((depth(app), len(app.routes)))
    assert len(set(shapes)) == 1


def settled(app: FastAPI) -> bool:
    """Whether the start has come to its end."""
    gate = app.middleware_stack
    return app.state.migrations.status.phase == "failed" or (isinstance(gate, Gate) and gate.is_open)


def depth(app: FastAPI) -> int:
    """How many applications are wrapped in one another."""
    layer, layers = app.middleware_stack, 0
    while layer is not None:
        layer, layers = getattr(layer, "app", None), layers + 1
    return layers


async def test_what_was_wrapped_around_the_gate_stays() -> None:
    """Instruments may take the gate's place between two starts; the second start finds it below them."""
    values = MigrationSettings.load(strategy="off")
    app = service(lifespan_with_migrations(settings=values))
    async with Served(app) as served:
        await served.opened()
    gate = app.middleware_stack
    assert isinstance(gate, Gate)
    app.middleware_stack = around = GZipMiddleware(gate)
    async with Served(app) as served:
        await asyncio.to_thread(wait_until, lambda: gate.is_open, "the gate open", seconds=FOREVER_SECONDS)
        assert (await served.get("/")).status_code == 200
    assert app.middleware_stack is around


async def test_the_state_of_the_first_start_is_forgotten() -> None:
    """Also where what was wrapped around its gate does not show what it wraps."""
    start = lifespan_with_migrations(settings=MigrationSettings.load(strategy="off"))
    app = service(start.then(Pool().lifespan))
    async with Served(app) as served:
        await served.opened()
        assert (await served.get("/")).json() == {"pool": "of connections"}
    gate = app.middleware_stack
    assert gate is not None

    async def closed(scope: Scope, receive: Receive, send: Send) -> None:
        await gate(scope, receive, send)

    app.middleware_stack = closed
    app.router.lifespan_context = start
    async with Served(app) as served:
        await served.opened()
        assert (await served.get("/")).json() == {"pool": None}
