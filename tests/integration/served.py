"""An application without a server: the test runs its lifespan and sends its requests."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

import httpx
from fastapi import FastAPI, Request
from starlette.types import Message, Receive, Scope, Send

from api.migrations import MigrationSettings
from api.migrations.startup_integration import MigrationLifespan
from api.migrations.web.gate import Gate
from tests.support.fakes import FOREVER_SECONDS
from tests.support.waiting import wait_until


class Served:
    """The server's part: start the lifespan, copy its state into requests, and stop it."""

    def __init__(self, app: FastAPI) -> None:
        self.app = app
        self.state: dict[str, Any] = {}
        self._inbox: asyncio.Queue[Message] = asyncio.Queue()
        self._outbox: asyncio.Queue[Message] = asyncio.Queue()

    async def __aenter__(self) -> Self:
        scope = {"type": "lifespan", "state": self.state}
        self._task = asyncio.create_task(self.app(scope, self._inbox.get, self._outbox.put))
        if (await self._turn("lifespan.startup"))["type"] == "lifespan.startup.failed":
            await self._task
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._turn("lifespan.shutdown")
        await self._task

    async def get(self, path: str) -> httpx.Response:
        """Send one request."""

        async def with_state(scope: Scope, receive: Receive, send: Send) -> None:
            await self.app({**scope, "state": dict(self.state)}, receive, send)

        async with httpx.AsyncClient(transport=httpx.ASGITransport(with_state), base_url="http://test") as client:
            return await client.get(path)

    async def opened(self) -> None:
        """Wait until the gate lets requests pass."""
        gate = self.app.middleware_stack
        assert isinstance(gate, Gate)
        await asyncio.to_thread(wait_until, lambda: gate.is_open, "the gate open", seconds=FOREVER_SECONDS)

    async def _turn(self, kind: str) -> Message:
        await self._inbox.put({"type": kind})
        return await asyncio.wait_for(self._outbox.get(), FOREVER_SECONDS)


class Pool:
    """A service's own lifespan, which records when, and in which task, it is entered and left."""

    def __init__(self) -> None:
        self.may_start = asyncio.Event()
        self.may_start.set()
        self.entered = asyncio.Event()
        self.notes: list[tuple[str, bool, object]] = []

    @asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[dict[str, str]]:
        """Yield state for the requests."""
        self.entered.set()
        await self.may_start.wait()
        self._note("enter", app)
        yield {"pool": "of connections"}
        self._note("leave", app)

    def _note(self, what: str, app: FastAPI) -> None:
        self.notes.append((what, app.state.migrations.status.ready, asyncio.current_task()))


def service(lifespan: MigrationLifespan) -> FastAPI:
    """Return an application with one route, which returns the state that requests receive."""
    app = FastAPI(lifespan=lifespan)

    @app.get("/{path:path}")
    async def root(request: Request) -> dict[str, str | None]:
        return {"pool": getattr(request.state, "pool", None)}

    return app


def settings(url: str, ini: Path, **values: Any) -> MigrationSettings:
    """Return settings with which a failed instance stays up."""
    common = {"on_failure": "hold", "poll_seconds": 0.05, "lock_timeout_seconds": 0, "instance": "one"}
    # many tests create tables of their own before the first revision
    common["baseline"] = "base"
    return MigrationSettings.load(database_url=url, alembic_config=str(ini), **{**common, **values})
