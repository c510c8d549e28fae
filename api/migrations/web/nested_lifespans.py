"""The lifespans of included routers, of mounted applications, and those that wrap the application's lifespan.

FastAPI enters the lifespan of an included router as soon as the application's has yielded. In mode `gate` that is
before the schema is verified. FastAPI keeps both in the closure of `_merge_lifespan_context`. This module replaces the
router's there until the schema is verified. It cannot see into a wrapper around `app.router.lifespan_context`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from types import CellType
from typing import Any

from starlette.applications import Starlette
from starlette.routing import BaseRoute, Host, Mount

Lifespan = Callable[[Any], AbstractAsyncContextManager[Mapping[str, Any] | None]]

_MERGED = "_merge_lifespan_context.<locals>.merged_lifespan"


def wrappers(lifespan: Lifespan, ours: Lifespan) -> list[str]:
    """Return the names of the lifespans that `deferred` cannot hold back."""
    if _nested(lifespan, ours) is not None:
        return []
    return [_name(leaf) for leaf in leaves(lifespan) if leaf is not ours and not _idle(leaf)]


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
