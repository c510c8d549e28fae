"""The lifespans beside ours: of included routers, of what wraps an application's lifespan, of mounted applications.

FastAPI enters the lifespan of an included router inside the application's, as soon as that has yielded, and in mode
`gate` ours yields before the schema is verified. FastAPI keeps both in the closure of `_merge_lifespan_context`; there
the router's can be replaced until it is entered. A library that wraps `app.router.lifespan_context` hides what it does.
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
    """The names of the lifespans beside `ours` that `deferred` cannot hold back."""
    if _nested(lifespan, ours) is not None:
        return []
    return [_name(leaf) for leaf in leaves(lifespan) if leaf is not ours and not _idle(leaf)]


@contextmanager
def deferred(lifespan: Lifespan, ours: Lifespan) -> Iterator[list[Lifespan]]:
    """Keep FastAPI from entering what is nested in `ours`; yields it, the first to be entered first."""
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
    """Enter them one inside the other, as FastAPI does: of equal names in their states the outermost wins."""
    state: dict[str, Any] = {}
    async with AsyncExitStack() as stack:
        for lifespan in lifespans:
            inner: Mapping[str, Any] | None = await stack.enter_async_context(lifespan(app))
            state = {**(inner or {}), **state}
        # None where nothing has a state: some servers support none
        yield state or None


def leaves(lifespan: Lifespan) -> Iterator[Lifespan]:
    """What FastAPI has merged into `lifespan`, in the order in which it is entered."""
    if merged := _merged(lifespan):
        for cell in merged:
            yield from leaves(cell.cell_contents)
    else:
        yield lifespan


def mounted(routes: Sequence[BaseRoute]) -> Iterator[tuple[str, Starlette]]:
    """The applications below each Mount, however deep, with the mount's path; no server runs their lifespans."""
    for route in routes:
        below = getattr(route, "app", None) if isinstance(route, Mount | Host) else None
        # each layer of the mount's own middleware has the next one as `app`
        while below is not None and not isinstance(below, Starlette):
            below = getattr(below, "app", None)
        if below is not None:
            yield getattr(route, "path", "") or getattr(route, "host", ""), below
        # a router that FastAPI has included, or that is mounted, has routes too
        inner: Any = below or getattr(route, "original_router", route)
        yield from mounted(getattr(inner, "routes", ()))


def _nested(lifespan: Lifespan, ours: Lifespan) -> list[CellType] | None:
    # None where ours is not the first to be entered, or where something around it is not FastAPI's
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
    """Whether it is of those that routers have without being given any, and has no handlers to run."""
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
