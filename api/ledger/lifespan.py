"""The life of the pool: from the verified schema to shutdown."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from api.migrations.settings.database_urls import url_of

from .database import Database


@asynccontextmanager
async def ledger_lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Set `app.state.ledger_database` from the URL of `state.settings`; it does not connect before the first request.

    Raises:
        api.migrations.errors.ConfigurationError: the URL is malformed, or its file cannot be read.
    """
    settings = app.state.settings
    url = url_of("DATABASE_URL", settings.database_url, settings.database_url_file)
    assert url is not None, "the settings have a default"
    database = Database(url)
    app.state.ledger_database = database
    try:
        yield
    finally:
        await database.dispose()
