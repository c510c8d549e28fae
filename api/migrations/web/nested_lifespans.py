"""The lifespans of included routers, of mounted applications, and those that wrap the application's lifespan.

FastAPI enters the lifespan of an included router as soon as the application's has yielded. In mode `gate` that is
before the schema is verified. FastAPI keeps both in the closure of `_merge_lifespan_context`. This module replaces the
router's there until the schema is verified. It cannot see into a wrapper around `app.router.lifespan_context`.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from types import CellType
from typing import Any

from starlette.applications import Starlette
from starlette.routing import BaseRoute, Host, Mount

from ..settings import MigrationSettings

Lifespan = Callable[[Any], AbstractAsyncContextManager[Mapping[str, Any] | None]]

log = logging.getLogger(__name__)

_WRAPPED = (
    "The lifespan of this application runs inside %s, which may read the schema as soon as lifespan_with_migrations "
    "yields. This start therefore uses MIGRATION_STARTUP_MODE=block and MIGRATION_ON_FAILURE=exit: the server does not "
    "listen before the schema is verified. Code that runs before lifespan_with_migrations is entered still finds the "
    "old schema. To fix: start it with lifespan_with_migrations.then(...)"
)

_MERGED = "_merge_lifespan_context.<locals>.merged_lifespan"


def wrappers(lifespan: Lifespan, ours: Lifespan) -> list[str]:
    """Return the names of the lifespans that `deferred` cannot hold back."""
    if _nested(lifespan, ours) is not None:
        return []
    return [_name(leaf) for leaf in leaves(lifespan) if leaf is not ours and not _idle(leaf)]


def suited_to(names: Sequence[str], settings: MigrationSettings) -> MigrationSettings:
    """Return settings that are safe if the lifespans `names` enclose ours, with a warning if they differ."""
    # in mode `block` the other lifespans' later steps find the new schema; with `hold` they would find the old one
    suited = settings.model_copy(update={"startup_mode": "block", "on_failure": "exit"})
    if not names or settings.strategy == "off" or suited == settings:
        return settings
    log.warning(_WRAPPED, ", ".join(names), extra={"event": "lifespan_wrapped"})
    return suited


@contextmanager
def deferred(lifespan: Lifespan, ours: Lifespan) -> Iterator[list[Lifespan]]:
    """Keep FastAPI from entering the lifespans that are nested in `ours`; yield them in the order of their entry."""
    cells = _nested(lifespan, ours) or []
    kept: list[Lifespan] = [cell.cell_contents for cell in cells]
    for cell in cells:
        cell.cell_contents = _nothing
    try:
        yield kept
    finally:
        for cell, nested in zip(cells, kept, strict=True):
            cell.cell_contents = nested


@asynccontextmanager
async def together(app: Starlette, lifespans: Sequence[Lifespan]) -> AsyncIterator[Mapping[str, Any] | None]:
    """Enter the lifespans one inside the other, as FastAPI does: for equal names the outermost's state wins."""
    state: dict[str, Any] = {}
    async with AsyncExitStack() as stack:
        for lifespan in lifespans:
            inner: Mapping[str, Any] | None = await stack.enter_async_context(lifespan(app))
            state = {**(inner or {}), **state}
        # None if no lifespan has a state, because some servers support no state
        yield state or None


def leaves(lifespan: Lifespan) -> Iterator[Lifespan]:
    """Yield the lifespans that FastAPI has merged into `lifespan`, in the order of their entry."""
    if merged := _merged(lifespan):
        for cell in merged:
            yield from leaves(cell.cell_contents)
    else:
        yield lifespan


def mounted(routes: Sequence[BaseRoute]) -> Iterator[tuple[str, Starlette]]:
    """Yield each mounted application, at any depth, with its path; no server runs their lifespans."""
    for route in routes:
        below = getattr(route, "app", None) if isinstance(route, Mount | Host) else None
        # each middleware of the mount has the next one as `app`
        while below is not None and not isinstance(below, Starlette):
            below = getattr(below, "app", None)
        if below is not None:
            yield getattr(route, "path", "") or getattr(route, "host", ""), below
        # included and mounted routers have routes too
        inner: Any = below or getattr(route, "original_router", route)
        yield from mounted(getattr(inner, "routes", ()))


def _nested(lifespan: Lifespan, ours: Lifespan) -> list[CellType] | None:
    # None if another lifespan is entered before ours, or a wrapper around it is not FastAPI's
    cells: list[CellType] = []
    while lifespan is not ours:
        merged = _merged(lifespan)
        if merged is None:
            return None
        original, nested = merged
        cells.insert(0, nested)
        lifespan = original.cell_contents
    return [cell for cell in cells if not _idle(cell.cell_contents)]


def _merged(lifespan: Lifespan) -> tuple[CellType, CellType] | None:
    function: Any = getattr(lifespan, "__wrapped__", None)
    code = getattr(function, "__code__", None)
    if code is None or code.co_qualname != _MERGED:
        return None
    cells = dict(zip(code.co_freevars, function.__closure__, strict=True))
    return cells["original_context"], cells["nested_context"]


def _idle(lifespan: Lifespan) -> bool:
    """Whether it is a router's default lifespan without handlers."""
    if merged := _merged(lifespan):
        return all(_idle(cell.cell_contents) for cell in merged)
    router = getattr(lifespan, "_router", None) if type(lifespan).__name__ == "_DefaultLifespan" else None
    return router is not None and not any(getattr(router, name, ()) for name in ("on_startup", "on_shutdown"))


def _name(lifespan: Lifespan) -> str:
    named = lifespan if hasattr(lifespan, "__qualname__") else type(lifespan)
    return f"{named.__module__}.{named.__qualname__}"


@asynccontextmanager
async def _nothing(app: Starlette) -> AsyncIterator[None]:
    yield
