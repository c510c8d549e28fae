"""The gate that `install` puts in front of an application answers with the application's CORS headers."""

from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from api.migrations import MigrationSettings
from api.migrations.parts import new_tracker
from api.migrations.web.gate import Gate
from api.migrations.web.install import install

SHOP = "https://shop.example"
PREFLIGHT = {"Origin": SHOP, "Access-Control-Request-Method": "PATCH"}


class TheirCORS(CORSMiddleware):
    """A subclass, such as a project's own with its defaults."""


class Counting:
    """A middleware of the application that needs what only the service's lifespan creates."""

    requests = 0

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count a request."""
        type(self).requests += 1
        await self.app(scope, receive, send)


@pytest.fixture(params=[CORSMiddleware, TheirCORS])
def app(request: pytest.FixtureRequest) -> FastAPI:
    """Return an application behind a closed gate; scripts of `SHOP` may use it."""
    app = FastAPI()
    app.add_api_route("/carts", lambda: "served")
    app.add_middleware(request.param, allow_origins=[SHOP], allow_methods=["PATCH"], allow_credentials=True)
    app.add_middleware(Counting)
    Counting.requests = 0
    settings = MigrationSettings.load(strategy="off")
    install(app, new_tracker(settings), settings)
    return app


@pytest.fixture
async def http(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """Yield a client of the application."""
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as http:
        yield http


async def test_a_script_of_an_allowed_origin_can_read_that_the_instance_is_not_ready(http: httpx.AsyncClient) -> None:
    """A closed gate answers 503 with the CORS headers, without which a browser shows a script only a network error."""
    answer = await http.get("/carts", headers={"Origin": SHOP})
    assert (answer.status_code, answer.headers["content-type"]) == (503, "application/problem+json")
    assert answer.headers["access-control-allow-origin"] == SHOP
    assert answer.headers["access-control-allow-credentials"] == "true"
    assert answer.headers["retry-after"]
    assert "Origin" in answer.headers["vary"]


async def test_other_origins_get_the_503_without_cors_headers(http: httpx.AsyncClient) -> None:
    """A closed gate allows no origin that the application does not allow."""
    answer = await http.get("/carts", headers={"Origin": "https://other.example"})
    assert answer.status_code == 503
    assert "access-control-allow-origin" not in answer.headers


async def test_a_preflight_is_answered_before_the_instance_is_ready(http: httpx.AsyncClient) -> None:
    """A closed gate answers a preflight, because after a failed one the browser does not send the request."""
    answer = await http.options("/carts", headers=PREFLIGHT)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == SHOP
    assert answer.headers["access-control-allow-methods"] == "PATCH"


async def test_no_other_middleware_runs_before_the_gate_opens(app: FastAPI, http: httpx.AsyncClient) -> None:
    """The application's other middleware sees no request until the gate opens, and each answer has one CORS header."""
    await http.get("/carts", headers={"Origin": SHOP})
    await http.options("/carts", headers=PREFLIGHT)
    assert Counting.requests == 0
    gate = app.middleware_stack
    assert isinstance(gate, Gate)
    gate.open()
    served = await http.get("/carts", headers={"Origin": SHOP})
    assert (served.status_code, served.headers.get_list("access-control-allow-origin")) == (200, [SHOP])
    assert Counting.requests == 1
