"""Finds the elector of a strategy. Its folder, or the client that it needs, may be missing."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from importlib import import_module
from types import ModuleType

from ..core.lock_key import LockKey
from ..core.protocols import Elector
from ..errors import ConfigurationError
from ..settings import MigrationSettings, Strategy
from ..urls.database_url import DatabaseURL


def elector_of(settings: MigrationSettings, strategy: Strategy, url: DatabaseURL) -> Callable[[], Elector] | None:
    """What makes the electors of this instance; None where the database's lock decides alone.

    What that makes raises `ConfigurationError` where its folder or its client is missing, or there is no cluster: an
    instance that only reads needs none of them.
    """
    kinds = {Strategy.REDIS: lambda: _redis(settings, url), Strategy.KUBERNETES: lambda: _lease(settings)}
    if strategy not in kinds:
        return None
    # once: what was seen of a Lease outlives the electors
    makes = cache(kinds[strategy])
    return lambda: makes()()


def hold_name(settings: MigrationSettings, strategy: Strategy, url: DatabaseURL) -> str | None:
    """The name of the key or Lease that the elected instance holds; None where the database's lock decides alone."""
    names = {
        Strategy.REDIS: lambda: f"key {_redis_key(settings, url)}",
        Strategy.KUBERNETES: lambda: f"Lease {settings.lease_name or _lease_name(settings)}",
    }
    return names[strategy]() if strategy in names else None


def _redis(settings: MigrationSettings, url: DatabaseURL) -> Callable[[], Elector]:
    elector = _import("redis", "redis")
    assert settings.redis_url is not None, "the settings have been checked"
    key = _redis_key(settings, url)
    address, ttl_seconds = settings.redis_url.get_secret_value(), settings.redis_ttl_seconds
    return lambda: elector.RedisElector(address, key, settings.instance, ttl_seconds)


def _redis_key(settings: MigrationSettings, url: DatabaseURL) -> str:
    # several databases may have one Redis, and an instance may know its database's server by another name
    schema = "\0".join((settings.version_table_schema or "", url.database.lower()))
    return f"fastapi-migrations:{LockKey.derive(settings.lock_name, settings.version_table, schema).digits}"


def _lease(settings: MigrationSettings) -> Callable[[], Elector]:
    election = _import("kubernetes", "lightkube").LeaseElection.build(settings, _lease_name(settings))
    return election.elector  # type: ignore[no-any-return]


def _lease_name(settings: MigrationSettings) -> str:
    # the lock's name, as Kubernetes would write it; the Role in deploy/kubernetes names the Lease too
    name = re.sub(r"[^a-z0-9]+", "-", settings.lock_name.lower()).strip("-")
    return f"migrations-{name}"[:253]


def _import(folder: str, client: str) -> ModuleType:
    try:
        return import_module(f".{folder}.elector", __package__)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith(f"{__package__}."):
            raise ConfigurationError(
                f"MIGRATION_STRATEGY={folder} needs the folder electors/{folder}, which this copy of the package does "
                "not have. To fix: copy that folder too, or set another strategy"
            ) from error
        # what is missing first may be something that is installed along with the client
        raise ConfigurationError(
            f"MIGRATION_STRATEGY={folder} needs the package {client}, which is not installed; pip install {client} "
            f"(in this project: the extra [{folder}])"
        ) from error
