"""The service: the ledger behind the gate of its migrations."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from .ledger import add_ledger, ledger_lifespan
from .migrations import lifespan_with_migrations
from .migrations.settings import MigrationSettings
from .migrations.startup_integration import json_logs_from_here
from .settings import Settings


def create_app(settings: Settings | None = None, migrations: MigrationSettings | None = None) -> FastAPI:
    """Create the application; it connects to nothing before its lifespan starts."""
    json_logs_from_here(migrations)

    @asynccontextmanager
    async def serving(app: FastAPI) -> AsyncIterator[None]:
        # not at import, so that an unreadable .env is a failed start with one line in the log
        app.state.settings = settings or Settings.load()
        async with ledger_lifespan(app):
            yield

    app = FastAPI(
        title="Ledger",
        summary="Accounts and double-entry transactions",
        lifespan=lifespan_with_migrations(settings=migrations, then=serving),
    )
    add_ledger(app)
    return app


app = create_app()
