"""The strategy that `auto` chooses for each database, and what every strategy refuses."""

from typing import Any

import pytest

from api.migrations.databases.registry import backend_of
from api.migrations.databases.sqlite.placement import Placement, refuse_unsafe
from api.migrations.electors.strategy import Choice, choose
from api.migrations.errors import ConfigurationError
from api.migrations.settings import MigrationSettings, Strategy

URLS = {
    "postgresql": "postgresql://user:password@host/name",
    "mysql": "mysql://user:password@host/name",
    "sqlite": "sqlite:////data/shop.db",
}
DISK, LAYER, NETWORK = Placement("ext4", True), Placement("overlay", True), Placement("nfs4", False)
REDIS = "redis://host:6379"


def settings(database: str, **given: Any) -> MigrationSettings:
    """Return settings for that database."""
    return MigrationSettings.load(database_url=URLS[database], **given)


def chosen(settings: MigrationSettings) -> Choice:
    """Return the choice for the database of the settings."""
    database = backend_of(settings, settings.url())
    return choose(settings, database.native_lock, database.why_redis)


@pytest.mark.parametrize(
    ("database", "given", "strategy", "why"),
    [
        ("postgresql", {}, "advisory_lock", "an advisory lock of the server"),
        ("postgresql", {"redis_url": REDIS}, "advisory_lock", "; MIGRATION_REDIS_URL is not used"),
        ("mysql", {}, "advisory_lock", "GET_LOCK of the server"),
        ("mysql", {"redis_url": REDIS}, "redis", "GET_LOCK holds on one server only"),
        ("sqlite", {}, "advisory_lock", "a lock file beside the database"),
        ("sqlite", {"redis_url": REDIS}, "advisory_lock", "a lock file beside the database"),
    ],
)
def test_auto_chooses_by_database_and_redis_url(database: str, given: dict[str, Any], strategy: str, why: str) -> None:
    """`auto` chooses a strategy by the database and the Redis URL, and gives its reason."""
    choice = chosen(settings(database, **given))
    assert choice.strategy is Strategy(strategy)
    assert why in choice.why


def test_auto_refuses_a_redis_ttl_too_long_for_the_wait_budget() -> None:
    """`auto` refuses a Redis ttl over half of the wait budget, but only if it would choose Redis."""
    asked = {database: settings(database, redis_url=REDIS, redis_ttl_seconds=200) for database in URLS}
    with pytest.raises(ConfigurationError, match="more than half of MIGRATION_WAIT_SECONDS"):
        chosen(asked["mysql"])
    assert chosen(asked["postgresql"]).strategy is Strategy.ADVISORY_LOCK


@pytest.mark.parametrize("database", URLS)
@pytest.mark.parametrize("named", ["advisory_lock", "redis", "kubernetes", "job"])
def test_a_named_strategy_is_used(database: str, named: str) -> None:
    """MIGRATION_STRATEGY wins over what `auto` would choose for each database."""
    choice = chosen(settings(database, strategy=named, redis_url=REDIS))
    assert choice == Choice(Strategy(named), "set by MIGRATION_STRATEGY")


@pytest.mark.parametrize("named", ["auto", "advisory_lock", "redis", "kubernetes", "job"])
def test_a_sqlite_file_on_a_network_is_refused(named: str) -> None:
    """Every strategy refuses a SQLite file on a network file system, because SQLite's own locks do not work there."""
    with pytest.raises(ConfigurationError, match=r"network file system \(nfs4\).*row 'SQLite, several hosts'"):
        refuse_unsafe(Strategy(named), NETWORK)


@pytest.mark.parametrize("asked_for", ["auto", "redis", "kubernetes", "job"])
def test_a_sqlite_file_in_a_container_is_refused_unless_named(asked_for: str) -> None:
    """A SQLite file in a container's own layer is refused unless the strategy is `advisory_lock` or `off`."""
    with pytest.raises(ConfigurationError, match=r"own overlay.*MIGRATION_STRATEGY=advisory_lock.*in a container"):
        refuse_unsafe(Strategy(asked_for), LAYER)
    for meant in ("advisory_lock", "off"):
        refuse_unsafe(Strategy(meant), LAYER)


def test_a_sqlite_file_that_is_mounted_alone_is_refused() -> None:
    """A SQLite file mounted without its folder is refused, because each container would have its own lock file."""
    with pytest.raises(ConfigurationError, match=r"the SQLite file is on a volume, but its folder.*mount the folder"):
        refuse_unsafe(Strategy.AUTO, Placement("ext4", True, "overlay"))
