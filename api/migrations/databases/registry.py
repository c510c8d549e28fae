"""From a URL and a strategy to the session and the elector; clients that may not be installed are imported here."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from ..core.lock_key import LockKey
from ..core.protocols import Elector
from ..electors.kubernetes.elector import LeaseElection
from ..errors import ConfigurationError
from ..execution.limits import Limits
from ..execution.lock_retry import LockRetrySchedule
from ..settings import MigrationSettings, Strategy
from ..urls.database_url import DatabaseURL
from .sql_session import Platform


def lock_key(settings: MigrationSettings, url: DatabaseURL) -> LockKey:
    """The key of the lock; MySQL's names are the server's and not the database's, so the database is in it.

    Raises:
        ConfigurationError: a schema is named where there are none.
    """
    if url.dialect == "sqlite" and settings.version_table_schema:
        raise ConfigurationError("SQLite has no schemas: leave MIGRATION_VERSION_TABLE_SCHEMA unset")
    # in lower case, for a server may take Shop and shop for one; two that are two then only wait for one another
    schema = settings.version_table_schema or (url.database.lower() if url.dialect == "mysql" else None)
    return LockKey.derive(settings.lock_name, settings.version_table, schema)


def refuse_unsafe(url: DatabaseURL, strategy: Strategy) -> None:
    """Refuse a SQLite file that instances cannot share; raises `ConfigurationError`."""
    if url.dialect == "sqlite":
        from .sqlite import placement

        placement.refuse_unsafe(strategy, placement.find(Path(url.database)))


def lock_name(url: DatabaseURL, key: LockKey) -> str:
    """What the database calls the lock."""
    if url.dialect == "sqlite":
        with _locking():
            from .sqlite.lock_file import lock_file
        return lock_file(Path(url.database), key).name
    return key.channel if url.dialect == "mysql" else str(key)


def platform(
    url: DatabaseURL,
    key: LockKey,
    instance: str,
    limits: Limits,
    schedule: LockRetrySchedule,
    *,
    create_file: bool = True,
) -> Platform:
    """How to connect to a database other than PostgreSQL, and to lock it; who `create_file` makes a file not there."""
    if url.dialect == "sqlite":
        from .sqlite.platform import Sqlite  # not every system has the lock that it takes

        return Sqlite(url, key, limits, schedule, instance, create_file=create_file)
    from .mysql.platform import MySQL

    return MySQL(url, key.channel, limits, schedule)


def elector(settings: MigrationSettings, strategy: Strategy, url: DatabaseURL) -> Callable[[], Elector] | None:
    """What makes the electors of this instance; None where the database's lock decides alone.

    What that makes raises `ConfigurationError` where its client is not installed, or there is no cluster to ask: who
    only reads needs neither.
    """
    kinds = {Strategy.REDIS: lambda: _redis(settings, url), Strategy.KUBERNETES: lambda: _lease(settings)}
    if strategy not in kinds:
        return None
    # once: what was seen of a Lease outlives the electors
    makes = cache(kinds[strategy])
    return lambda: makes()()


def hold_name(settings: MigrationSettings, strategy: Strategy, url: DatabaseURL) -> str | None:
    """What whoever is elected holds, for people; None where the database's lock decides alone."""
    names = {
        Strategy.REDIS: lambda: f"key {_redis_key(settings, url)}",
        Strategy.KUBERNETES: lambda: f"Lease {settings.lease_name or _lease_name(settings)}",
    }
    return names[strategy]() if strategy in names else None


def _redis(settings: MigrationSettings, url: DatabaseURL) -> Callable[[], Elector]:
    with _imported("redis", "redis"):
        from ..electors.redis.elector import RedisElector
    assert settings.redis_url is not None, "the settings have been checked"
    key = _redis_key(settings, url)
    address, ttl_seconds = settings.redis_url.get_secret_value(), settings.redis_ttl_seconds
    return lambda: RedisElector(address, key, settings.instance, ttl_seconds)


def _redis_key(settings: MigrationSettings, url: DatabaseURL) -> str:
    # several databases may have one Redis, and an instance may know its database's server by another name
    schema = "\0".join((settings.version_table_schema or "", url.database.lower()))
    return f"fastapi-migrations:{LockKey.derive(settings.lock_name, settings.version_table, schema).digits}"


def _lease(settings: MigrationSettings) -> Callable[[], Elector]:
    return LeaseElection.build(settings, _lease_name(settings)).elector


def _lease_name(settings: MigrationSettings) -> str:
    # the lock's name, as Kubernetes would write it; the Role in deploy/kubernetes names the Lease too
    name = re.sub(r"[^a-z0-9]+", "-", settings.lock_name.lower()).strip("-")
    return f"migrations-{name}"[:253]


@contextmanager
def _locking() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name != "fcntl":
            raise
        raise ConfigurationError(
            "SQLite's migrations take a lock that this operating system does not have (flock); use Linux or macOS "
            "(also as WSL, or in a container), or another database"
        ) from error


@contextmanager
def _imported(package: str, strategy: str) -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != package:
            raise
        raise ConfigurationError(
            f"MIGRATION_STRATEGY={strategy} needs the package {package}, which is not installed; pip install {package} "
            f"(in this project: the extra [{strategy}])"
        ) from error
