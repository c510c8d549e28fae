"""Finds the elector of a strategy. The elector's folder and its client library are optional."""

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
    """Return the factory of this instance's electors; None if the database's lock decides alone.

    The factory raises `ConfigurationError` if the folder, the client or the cluster is missing: only then, because an
    instance that only reads needs none of them.
    """
    loaders = {Strategy.REDIS: lambda: _redis(settings, url), Strategy.KUBERNETES: lambda: _lease(settings)}
    if strategy not in loaders:
        return None
    # cached: electors share what they observed of the Lease
    load = cache(loaders[strategy])
    return lambda: load()()


def hold_name(settings: MigrationSettings, strategy: Strategy, url: DatabaseURL) -> str | None:
    """Name the key or Lease that the elected instance holds; None if the database's lock decides alone."""
    if strategy is Strategy.REDIS:
        return f"key {_redis_key(settings, url)}"
    return f"Lease {settings.lease_name or _lease_name(settings)}" if strategy is Strategy.KUBERNETES else None


def _redis(settings: MigrationSettings, url: DatabaseURL) -> Callable[[], Elector]:
    elector = _import("redis", "redis")
    assert settings.redis_url is not None, "the settings have been checked"
    key = _redis_key(settings, url)
    address, ttl_seconds = settings.redis_url.get_secret_value(), settings.redis_ttl_seconds
    return lambda: elector.RedisElector(address, key, settings.instance, ttl_seconds)


def _redis_key(settings: MigrationSettings, url: DatabaseURL) -> str:
    # without the host: several databases may share one Redis, and instances may name one server differently
    schema = "\0".join((settings.version_table_schema or "", url.database.lower()))
    return f"fastapi-migrations:{LockKey.derive(settings.lock_name, settings.version_table, schema).digits}"


def _lease(settings: MigrationSettings) -> Callable[[], Elector]:
    election = _import("kubernetes", "lightkube").LeaseElection.build(settings, _lease_name(settings))
    return election.elector  # type: ignore[no-any-return]


def _lease_name(settings: MigrationSettings) -> str:
    # the lock's name as Kubernetes writes names; the Role in deploy/kubernetes names this Lease too
    name = re.sub(r"[^a-z0-9]+", "-", settings.lock_name.lower()).strip("-")
    return f"migrations-{name}"[:253]


def _import(folder: str, client: str) -> ModuleType:
    try:
        return import_module(f".{folder}.elector", __package__)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith(f"{__package__}."):
            raise ConfigurationError(
                f"MIGRATION_STRATEGY={folder} needs the folder electors/{folder}, which this copy of the package does "
                "not have. To fix: copy that folder too, or set another MIGRATION_STRATEGY"
            ) from error
        # also if the missing module is one that the client needs
        raise ConfigurationError(
            f"MIGRATION_STRATEGY={folder} needs the package {client}, which is not installed. To fix: pip install "
            f"{client} (in this project: the extra [{folder}])"
        ) from error
