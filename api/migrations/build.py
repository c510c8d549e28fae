"""This build's name for the sessions of the service's own pool, by which a contract revision recognises older builds.

    create_async_engine(url, connect_args={"server_settings": {"application_name": session_name("ledger")}})

PostgreSQL shows an `application_name` to every role, and PgBouncer passes it on.
"""

from __future__ import annotations

from .core.builds import name_of
from .execution.revisions import Revisions
from .settings import MigrationSettings


def session_name(service: str, settings: MigrationSettings | None = None) -> str:
    """Return `service@head` with the head of this build's revisions, such as `ledger@097ced08409f`.

    It reads the revision files as text where that suffices, which needs some milliseconds: call it once, and not before
    the first connection if the start should not wait for it. Several heads have commas between; without any it is
    `service@base`. The service's name is cut if both exceed the 63 bytes that PostgreSQL keeps.

    Args:
        service: the name of the service; what stands before the last `@`.
        settings: those of the service's database, if it has several; default: the environment and `.env`.

    Raises:
        ConfigurationError: a file of the build is missing or damaged.
    """
    settings = settings or MigrationSettings.load_partial("alembic_config", "alembic_section")
    revisions = Revisions(settings.alembic_config, "heads", section=settings.alembic_section, may_be_empty=True)
    return name_of(service, revisions.code.heads)
