"""Which strategy `auto` means, and what cannot be safe whatever is asked for: the decision table, in code.

database        MIGRATION_REDIS_URL   auto picks      because
PostgreSQL      any                   advisory_lock   the server's lock and the revisions are one session's
MySQL, MariaDB  not set               advisory_lock   GET_LOCK does the same on one server
MySQL, MariaDB  set                   redis           GET_LOCK is one server's, and several may accept writes
SQLite          any                   advisory_lock   a lock file beside the database; hosts cannot share one
"""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import ConfigurationError
from ..settings import MigrationSettings, Strategy
from ..urls.database_url import DatabaseURL


@dataclass(frozen=True)
class Choice:
    """A strategy, and why it is that one."""

    strategy: Strategy
    why: str


_NATIVE = {
    "postgresql": "an advisory lock of the server, on the session that runs the revisions",
    "mysql": "GET_LOCK of the server, on the session that runs the revisions",
    "sqlite": "a lock file beside the database, for the processes of one host",
}


def choose(settings: MigrationSettings, url: DatabaseURL) -> Choice:
    """The strategy that `auto` means, or the one that was named.

    Args:
        settings: what was asked for.
        url: the database.

    Raises:
        ConfigurationError: several instances cannot be safe that way; the message names the row of the decision table.
    """
    named = settings.strategy
    if named is not Strategy.AUTO:
        return Choice(named, "MIGRATION_STRATEGY names it")
    if url.dialect == "mysql" and settings.redis_url is not None:
        _refuse_long_ttl(settings)
        return Choice(Strategy.REDIS, "MIGRATION_REDIS_URL is set, and GET_LOCK holds on one server only")
    unused = "" if settings.redis_url is None else "; MIGRATION_REDIS_URL is not used"
    return Choice(Strategy.ADVISORY_LOCK, _NATIVE[url.dialect] + unused)


def _refuse_long_ttl(settings: MigrationSettings) -> None:
    try:
        settings.check_redis_ttl()
    except ValueError as error:
        raise ConfigurationError(str(error)) from None
