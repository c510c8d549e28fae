"""A real Redis and the API of Leases with one interface, for tests that must pass with each of them."""

import math
from datetime import UTC, datetime, timedelta
from typing import Protocol

from tests.support.lease_api import NAMESPACE, Fault, LeaseApi
from tests.support.pace import scaled
from tests.support.redis_server import RedisServer

TTL_SECONDS = math.ceil(scaled(3))
"""The shortest duration that the settings allow, in seconds on an idle machine."""


class Referee(Protocol):
    """Elects the instance that may try to migrate.

    Attributes:
        kind: the strategy that uses it.
        called: its name in messages.
        settings: the settings that an instance needs to use it.
    """

    kind: str
    called: str
    settings: dict[str, str]

    def leader(self) -> str:
        """Return the instance that leads; empty if none does."""

    def outlived(self, instance: str) -> bool:
        """Return whether the hold of this instance has expired, or another instance has it."""

    def reads(self) -> int:
        """Return how many requests asked for the holder."""

    def writes(self) -> int:
        """Return how many requests acquired, renewed or released a hold, or tried to."""

    def rob(self, thief: str) -> None:
        """Let `thief` lead for a second: nothing renews its hold."""

    def start(self) -> None:
        """Listen, with the data from before."""

    def stop(self) -> None:
        """Refuse connections."""

    def fall_silent(self) -> None:
        """Accept requests and answer none of them usefully."""

    def speak(self) -> None:
        """Answer again."""


class RedisReferee:
    """A key of a Redis."""

    kind = "redis"
    called = "Redis"

    def __init__(self, server: RedisServer, ttl_seconds: float = TTL_SECONDS) -> None:
        self.server = server
        self.settings = {
            "MIGRATION_STRATEGY": "redis",
            "MIGRATION_REDIS_URL": server.url,
            "MIGRATION_REDIS_TTL_SECONDS": f"{ttl_seconds:g}",
        }

    def leader(self) -> str:
        """Return the instance in the token of the only key."""
        return str(self.server.execute("GET", self._key()) or "").rpartition(":")[0]

    def outlived(self, instance: str) -> bool:
        """Return whether the key, which ends with the hold, names another instance or none."""
        return self.leader() != instance

    def reads(self) -> int:
        """Count GET."""
        return self._calls("get")

    def writes(self) -> int:
        """Count SET, and the scripts that renew and release."""
        return self._calls("set") + self._calls("evalsha")

    def rob(self, thief: str) -> None:
        """Put another token into the key."""
        self.server.execute("SET", self._key(), f"{thief}:0", "PX", 1000)

    def start(self) -> None:
        """Start on the same port."""
        self.server.start()

    def stop(self) -> None:
        """Stop like a crash."""
        self.server.kill()

    def fall_silent(self) -> None:
        """Freeze like a frozen host."""
        self.server.freeze()

    def speak(self) -> None:
        """Continue."""
        self.server.thaw()

    def _calls(self, command: str) -> int:
        seen = self.server.info("commandstats").get(f"cmdstat_{command}", {})
        return int(seen.get("calls", 0))

    def _key(self) -> str:
        return next(iter(self.server.execute("KEYS", "fastapi-migrations:*")), "none")


class LeaseReferee:
    """A Lease of the Kubernetes API."""

    kind = "kubernetes"
    called = "the Kubernetes API"
    name = "migrations-fastapi"

    def __init__(self, api: LeaseApi, lease_seconds: int = TTL_SECONDS) -> None:
        self.api = api
        self.settings = {
            "MIGRATION_STRATEGY": "kubernetes",
            "KUBECONFIG": str(api.kubeconfig),
            "MIGRATION_LEASE_SECONDS": str(lease_seconds),
        }

    def leader(self) -> str:
        """Return the holder in the record, without the random part of its identity."""
        return self.api.holder(self.name).rpartition("_")[0]

    def outlived(self, instance: str) -> bool:
        """Return whether the record, which stays, names another holder or has expired by this machine's clock."""
        spec = self.api.spec(self.name)
        renewed = datetime.fromisoformat(spec["renewTime"])
        over = renewed + timedelta(seconds=spec["leaseDurationSeconds"]) < datetime.now(UTC)
        return over or self.leader() != instance

    def reads(self) -> int:
        """Count GET."""
        return self._requests("get")

    def writes(self) -> int:
        """Count POST and PUT."""
        return self._requests("create", "update")

    def rob(self, thief: str) -> None:
        """Put another holder into the record."""
        thief = f"{thief}_0123456789ab"
        self.api.store.edit((NAMESPACE, self.name), holderIdentity=thief, leaseDurationSeconds=1)

    def start(self) -> None:
        """Start on the same port."""
        self.api.start()

    def stop(self) -> None:
        """Stop, and cut open connections."""
        self.api.stop()

    def fall_silent(self) -> None:
        """Answer 500 to every request."""
        self.api.fault = Fault(status=500)

    def speak(self) -> None:
        """Answer every request as usual."""
        self.api.fault = None

    def _requests(self, *verbs: str) -> int:
        return sum(request.verb in verbs for request in self.api.requests)
