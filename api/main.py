"""The service: the ledger behind the gate of its migrations."""

from __future__ import annotations

from fastapi import FastAPI

from .ledger import ledger_lifespan
from .ledger import router as ledger
from .migrations import lifespan_with_migrations
from .migrations.settings import MigrationSettings
from .migrations.startup_integration import json_logs_from_here
from .settings import Settings


def create_app(settings: Settings | None = None, migrations: MigrationSettings | None = None) -> FastAPI:
    """The application; nothing connects before its lifespan starts."""
    json_logs_from_here(migrations)
    app = FastAPI(
        title="Ledger",
        summary="Accounts and double-entry transactions",
        lifespan=lifespan_with_migrations(settings=migrations, then=ledger_lifespan),
    )
    app.state.settings = settings or Settings()
    app.include_router(ledger)
    return app


app = create_app()
