"""Lifespans of included routers and wrappers of the package's lifespan, in applications without a server."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
from fastapi import APIRouter, FastAPI

from api.migrations import MigrationSettings, lifespan_with_migrations
from api.migrations.errors import RevisionFailed
from api.migrations.web.nested_lifespans import Lifespan, wrappers
from tests.integration.served import Served, settings
from tests.support.fakes import FOREVER_SECONDS, tree
from tests.support.waiting import wait_until

OFF = MigrationSettings.load(strategy="off")
MODES = pytest.mark.parametrize("mode", ["gate", "block"])


NOTED = f"{__name__}.Notes.lifespan.<locals>.noted"


class Notes:
    """Lifespans that record when they are entered and left."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def lifespan(self, name: str) -> Any:
        """Return a lifespan that yields its name as state, also under the key `last`."""

        @asynccontextmanager
        async def noted(app: FastAPI) -> AsyncIterator[dict[str, str]]:
            self.said.append(f"enter {name}")
            yield {name: name, "last": name}
            self.said.append(f"leave {name}")

        return noted


def application(notes: Notes, values: MigrationSettings) -> FastAPI:
    """Return an application with nested routers that have lifespans, one with a handler, and a plain one."""
    inner = APIRouter(lifespan=notes.lifespan("inner"))
    outer = APIRouter(lifespan=notes.lifespan("outer"))
    outer.include_router(inner)
    old = APIRouter(on_startup=[lambda: notes.said.append("handler")])
    app = FastAPI(lifespan=lifespan_with_migrations(settings=values).then(notes.lifespan("then")))
    for router in (APIRouter(), outer, old):
        app.include_router(router)
    return app


@MODES
async def test_router_lifespans_start_once_with_each_start(mode: str) -> None:
    """At each start router lifespans are entered once in FastAPI's order, and the outermost state wins."""
    notes = Notes()
    app = application(notes, OFF.model_copy(update={"startup_mode": mode}))
    for _ in range(2):
        notes.said.clear()
        async with Served(app) as served:
            await served.opened()
            state = served.state or app.state.migrations_gate.late_state
            assert state == {"then": "then", "outer": "outer", "inner": "inner", "last": "then"}
        entered, left = ["then", "outer", "inner"], ["inner", "outer", "then"]
        assert notes.said == [f"enter {n}" for n in entered] + ["handler"] + [f"leave {n}" for n in left]


@MODES
async def test_router_lifespans_never_start_after_a_failure(tmp_path: Path, mode: str) -> None:
    """The start fails: the instance stays up unready, and no router lifespan is entered."""
    notes = Notes()
    app = application(notes, settings("sqlite:////nowhere.db", tmp_path / "none.ini", startup_mode=mode))
    async with Served(app) as served:
        failed = lambda: app.state.migrations.status.phase == "failed"  # noqa: E731 - a condition to wait for
        await asyncio.to_thread(wait_until, failed, "the failure", seconds=FOREVER_SECONDS)
        assert (await served.get("/health/ready")).status_code == 503
    assert notes.said == []


class Instrument:
    """A wrapper that a library puts around a lifespan."""

    def __init__(self, within: Lifespan) -> None:
        self.within = within

    def __call__(self, app: Any) -> Any:
        """Return the lifespan's context."""
        return self.within(app)


def test_wrappers_of_the_lifespan_are_named() -> None:
    """Callables of each kind wrap the lifespan: each is named, and FastAPI's own merge of lifespans is not."""
    notes, ours = Notes(), lifespan_with_migrations
    merged = FastAPI(lifespan=ours)
    merged.include_router(APIRouter(lifespan=notes.lifespan("router")))
    within = merged.router.lifespan_context
    assert wrappers(within, ours) == []
    assert wrappers(Instrument(within), ours) == [f"{__name__}.Instrument"]
    assert wrappers(cast(Any, partial(Instrument, ours)), ours) == ["functools.partial"]
    assert wrappers(notes.lifespan("by hand"), ours) == [NOTED]


def test_the_application_s_lifespan_is_named_if_ours_is_on_a_router() -> None:
    """The package's lifespan is on a router: the application's lifespan starts earlier and is named."""
    notes = Notes()
    for own, expected in ((None, []), (notes.lifespan("app"), [NOTED])):
        app = FastAPI(lifespan=own)
        app.include_router(APIRouter(lifespan=lifespan_with_migrations))
        assert wrappers(app.router.lifespan_context, lifespan_with_migrations) == expected


async def test_a_wrapped_lifespan_is_not_held(tmp_path: Path) -> None:
    """The start fails inside a wrapper: it raises the error even with `hold`, or the server would never listen."""
    ini, url = tree(tmp_path, 'raise ValueError("boom")'), f"sqlite+aiosqlite:///{tmp_path}/one.db"
    app = FastAPI(lifespan=cast(Any, Instrument(lifespan_with_migrations(settings=settings(url, ini)))))
    with pytest.raises(RevisionFailed, match="boom"):
        async with Served(app):
            pytest.fail("it must not start")
