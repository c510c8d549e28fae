"""Alembic's entry: the package does the work, so that a command typed by hand takes the same lock as the service."""

from contextlib import suppress

from api.ledger import metadata
from api.migrations.environment import run_env

with suppress(ImportError):  # the image has no devtools
    from devtools.other_terminal import use_database_of_dev_up

    use_database_of_dev_up()

run_env(metadata)
