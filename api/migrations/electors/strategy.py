"""Picks the strategy; the table says what `auto` means.

database        MIGRATION_REDIS_URL   auto picks      because
PostgreSQL      any                   advisory_lock   one session holds the server's lock and runs the revisions
MySQL, MariaDB  not set               advisory_lock   GET_LOCK does the same on one server
MySQL, MariaDB  set                   redis           GET_LOCK holds on one server, and several may accept writes
SQLite          any                   advisory_lock   a lock file beside the database; hosts cannot share one
"""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import ConfigurationError
from ..settings import MigrationSettings, Strategy


@dataclass(frozen=True)
class Choice:
    """A strategy and the reason for it."""

    strategy: Strategy
    why: str


def choose(settings: MigrationSettings, native_lock: str, why_redis: str | None) -> Choice:
    """Return the strategy that the settings name, or the one that `auto` means.

    `native_lock` describes the database's own lock; `why_redis` says why `auto` prefers Redis to it, None if it does
    not. Raises `ConfigurationError` if a hold in Redis would outlast the wait budget.
    """
    if settings.strategy is not Strategy.AUTO:
        return Choice(settings.strategy, "set by MIGRATION_STRATEGY")
    if why_redis and settings.redis_url is not None:
        try:
            settings.check_redis_ttl()
        except ValueError as error:
            raise ConfigurationError(str(error)) from None
        return Choice(Strategy.REDIS, f"MIGRATION_REDIS_URL is set, and {why_redis}")
    unused = "" if settings.redis_url is None else "; MIGRATION_REDIS_URL is not used"
    return Choice(Strategy.ADVISORY_LOCK, native_lock + unused)
