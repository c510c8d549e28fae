"""The service with this project's lifespan. It writes when it is ready, as do the other variants that migrate."""

from __future__ import annotations

from api.migrations import lifespan_with_migrations
from bench.apps.ready import noting
from bench.apps.service import create_app, pool

app = create_app(lifespan_with_migrations.then(noting(pool)))
