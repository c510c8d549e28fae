"""Alembic's entry: the package does the work, so that a command typed by hand takes the same lock as the service."""

from api.ledger import metadata
from api.migrations.environment import run_env

run_env(metadata)
