"""The decision table: what `auto` picks, and what every strategy refuses."""

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
    """Settings for that database."""
    return MigrationSettings.load(database_url=URLS[database], **given)


def chosen(settings: MigrationSettings) -> Choice:
    """The choice for the database of the settings."""
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
def test_what_auto_picks(database: str, given: dict[str, Any], strategy: str, why: str) -> None:
    """The choice includes its reason."""
    choice = chosen(settings(database, **given))
    assert choice.strategy is Strategy(strategy)
    assert why in choice.why


def test_a_hold_that_auto_picks_ends_within_the_wait() -> None:
    """A waiter must not time out before a dead leader's hold ends; without Redis the ttl does not matter."""
    asked = {database: settings(database, redis_url=REDIS, redis_ttl_seconds=200) for database in URLS}
    with pytest.raises(ConfigurationError, match="more than half of MIGRATION_WAIT_SECONDS"):
        chosen(asked["mysql"])
    assert chosen(asked["postgresql"]).strategy is Strategy.ADVISORY_LOCK


@pytest.mark.parametrize("database", URLS)
@pytest.mark.parametrize("named", ["advisory_lock", "redis", "kubernetes", "job"])
def test_a_named_strategy_is_taken(database: str, named: str) -> None:
    """MIGRATION_STRATEGY wins over the table."""
    choice = chosen(settings(database, strategy=named, redis_url=REDIS))
    assert choice == Choice(Strategy(named), "set by MIGRATION_STRATEGY")


@pytest.mark.parametrize("named", ["auto", "advisory_lock", "redis", "kubernetes", "job"])
def test_a_file_on_a_network_is_never_safe(named: str) -> None:
    """SQLite's own locks do not work there, whatever elects the instance."""
    with pytest.raises(ConfigurationError, match=r"network file system \(nfs4\).*row 'SQLite, several hosts'"):
        refuse_unsafe(Strategy(named), NETWORK)


@pytest.mark.parametrize("asked_for", ["auto", "redis", "kubernetes", "job"])
def test_a_file_in_a_container_has_to_be_meant(asked_for: str) -> None:
    """Each instance would have its own file; `advisory_lock`, set by name, says that there is only one instance."""
    with pytest.raises(ConfigurationError, match=r"own overlay.*MIGRATION_STRATEGY=advisory_lock.*in a container"):
        refuse_unsafe(Strategy(asked_for), LAYER)
    for meant in ("advisory_lock", "off"):
        refuse_unsafe(Strategy(meant), LAYER)


def test_a_file_that_is_mounted_alone_is_not_shared() -> None:
    """Each container would have its own lock file."""
    with pytest.raises(ConfigurationError, match=r"the SQLite file is on a volume, but its folder.*mount the folder"):
        refuse_unsafe(Strategy.AUTO, Placement("ext4", True, "overlay"))
