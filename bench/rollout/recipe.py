"""The ledger with the usual recipe in its lifespan, and the route that haproxy asks for.

It listens only after the migration, so the route needs no state.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from api.ledger import add_ledger, ledger_lifespan
from api.settings import Settings
from bench.apps.recipe import migrate


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Migrate, then serve."""
    await migrate(os.environ["DATABASE_URL"])
    app.state.settings = Settings.load()
    async with ledger_lifespan(app):
        yield


app = FastAPI(title="Ledger", lifespan=lifespan)
add_ledger(app)


@app.get("/health/ready")
async def ready() -> str:
    """Answer 200."""
    return "ready"
