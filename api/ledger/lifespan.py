"""When the pool lives: from after the schema is ready until shutdown."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from api.migrations.urls.database_url import DatabaseURL

from .database import Database


@asynccontextmanager
async def ledger_lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Give the app its `state.ledger_database`, from `state.settings.database_url`; no I/O until the first request.

    Raises:
        api.migrations.errors.ConfigurationError: the URL cannot be read.
    """
    database = Database(DatabaseURL.parse(app.state.settings.database_url.get_secret_value()))
    app.state.ledger_database = database
    try:
        yield
    finally:
        await database.dispose()
