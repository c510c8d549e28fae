"""What elects, in one shape, for tests that must hold whichever does: a real Redis, or the API of Leases."""

import math
from datetime import UTC, datetime, timedelta
from typing import Protocol

from tests.support.lease_api import NAMESPACE, Fault, LeaseApi
from tests.support.pace import scaled
from tests.support.redis_server import RedisServer

TTL_SECONDS = math.ceil(scaled(3))
"""The shortest that the settings allow, on an idle machine."""


class Referee(Protocol):
    """Decides who may try to migrate.

    Attributes:
        kind: the strategy that asks it.
        called: how messages name it.
        settings: what an instance must be told to ask it.
    """

    kind: str
    called: str
    settings: dict[str, str]

    def leader(self) -> str:
        """The instance that leads; empty where none does."""

    def outlived(self, instance: str) -> bool:
        """Whether the hold of this instance is over because it was not renewed, or another has it."""

    def reads(self) -> int:
        """How often it was asked for the holder."""

    def writes(self) -> int:
        """How often a hold was acquired, renewed or released, or that was tried."""

    def rob(self, thief: str) -> None:
        """`thief` leads, for a second: nothing renews its hold."""

    def start(self) -> None:
        """Listen, and know what was known before."""

    def stop(self) -> None:
        """Refuse connections."""

    def fall_silent(self) -> None:
        """Take requests and be of no use."""

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
        """In the token of the only key."""
        return str(self.server.execute("GET", self._key()) or "").rpartition(":")[0]

    def outlived(self, instance: str) -> bool:
        """The key ends with it."""
        return self.leader() != instance

    def reads(self) -> int:
        """GET."""
        return self._calls("get")

    def writes(self) -> int:
        """SET, and the scripts that renew and release."""
        return self._calls("set") + self._calls("evalsha")

    def rob(self, thief: str) -> None:
        """Another token in the key."""
        self.server.execute("SET", self._key(), f"{thief}:0", "PX", 1000)

    def start(self) -> None:
        """On the same port."""
        self.server.start()

    def stop(self) -> None:
        """As a crash does."""
        self.server.kill()

    def fall_silent(self) -> None:
        """As a host does that is frozen."""
        self.server.freeze()

    def speak(self) -> None:
        """Go on."""
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
        """In the record, without the random part of its identity."""
        return self.api.holder(self.name).rpartition("_")[0]

    def outlived(self, instance: str) -> bool:
        """The record stays: by its last renewal, on the clock of this machine."""
        spec = self.api.spec(self.name)
        renewed = datetime.fromisoformat(spec["renewTime"])
        over = renewed + timedelta(seconds=spec["leaseDurationSeconds"]) < datetime.now(UTC)
        return over or self.leader() != instance

    def reads(self) -> int:
        """GET."""
        return self._requests("get")

    def writes(self) -> int:
        """POST and PUT."""
        return self._requests("create", "update")

    def rob(self, thief: str) -> None:
        """Another holder in the record."""
        thief = f"{thief}_0123456789ab"
        self.api.store.edit((NAMESPACE, self.name), holderIdentity=thief, leaseDurationSeconds=1)

    def start(self) -> None:
        """On the same port."""
        self.api.start()

    def stop(self) -> None:
        """Cut what is open, too."""
        self.api.stop()

    def fall_silent(self) -> None:
        """Answer 500 to everything."""
        self.api.fault = Fault(status=500)

    def speak(self) -> None:
        """Answer in earnest."""
        self.api.fault = None

    def _requests(self, *verbs: str) -> int:
        return sum(request.verb in verbs for request in self.api.requests)
