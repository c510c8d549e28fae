"""One application object whose lifespan is started more than once, as in test suites."""

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
async def test_an_application_can_be_started_again(tmp_path: Path, mode: str, phases: tuple[str, ...]) -> None:
    """An application is started again: gate, health and metrics show the new start, and no layer is added."""
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
    """Return whether the start has ended."""
    gate = app.middleware_stack
    return app.state.migrations.status.phase == "failed" or (isinstance(gate, Gate) and gate.is_open)


def depth(app: FastAPI) -> int:
    """Return how many applications are nested in one another."""
    layer, layers = app.middleware_stack, 0
    while layer is not None:
        layer, layers = getattr(layer, "app", None), layers + 1
    return layers


async def test_a_middleware_around_the_gate_is_kept() -> None:
    """A middleware wraps the gate between two starts: the second start finds the gate and keeps the middleware."""
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


async def test_a_second_start_does_not_keep_the_first_state() -> None:
    """A middleware hides the gate: the second start does not serve the state of the first one."""
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
