"""The life of the pool: from the verified schema to shutdown."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from api.migrations.urls.database_url import DatabaseURL

from .database import Database


@asynccontextmanager
async def ledger_lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Set `app.state.ledger_database` from `state.settings.database_url`; no I/O before the first request.

    Raises:
        api.migrations.errors.ConfigurationError: the URL is malformed.
    """
    database = Database(DatabaseURL.parse(app.state.settings.database_url.get_secret_value()))
    app.state.ledger_database = database
    try:
        yield
    finally:
        await database.dispose()
