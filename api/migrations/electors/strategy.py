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


@dataclass(frozen=True)
class Choice:
    """A strategy, and why it is that one."""

    strategy: Strategy
    why: str


def choose(settings: MigrationSettings, native_lock: str, why_redis: str | None) -> Choice:
    """The strategy that `auto` means, or the one that was named.

    Args:
        settings: what was asked for.
        native_lock: the database's own lock, for people.
        why_redis: why that lock is not enough where there is a Redis; None where it is.

    Raises:
        ConfigurationError: a hold in Redis would outlast the wait budget.
    """
    named = settings.strategy
    if named is not Strategy.AUTO:
        return Choice(named, "MIGRATION_STRATEGY names it")
    if why_redis and settings.redis_url is not None:
        _refuse_long_ttl(settings)
        return Choice(Strategy.REDIS, f"MIGRATION_REDIS_URL is set, and {why_redis}")
    unused = "" if settings.redis_url is None else "; MIGRATION_REDIS_URL is not used"
    return Choice(Strategy.ADVISORY_LOCK, native_lock + unused)


def _refuse_long_ttl(settings: MigrationSettings) -> None:
    try:
        settings.check_redis_ttl()
    except ValueError as error:
        raise ConfigurationError(str(error)) from None
