"""What a Redis is set up to do to a hold: said once, by the one that got it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

log = logging.getLogger(__name__)


def evicts(facts: Mapping[str, Any]) -> str | None:
    """The policy by which a Redis of this INFO may drop a key that has a ttl; None if it drops none."""
    policy = str(facts.get("maxmemory_policy", "noeviction"))
    return policy if policy != "noeviction" and facts.get("maxmemory") else None


async def examine(client: Redis, renew: Callable[[Redis], Awaitable[object]], seconds: float) -> None:
    """Warn of a policy that evicts the hold, and of replicas none of which has it within half of `seconds`.

    Silent where Redis does not say, and bounded by twice `seconds`: it is advice, and whether the hold is ours is
    asked elsewhere. INFO knows the policy too, and is allowed where managed servers forbid CONFIG.
    """
    with suppress(RedisError, OSError):
        async with asyncio.timeout(seconds):
            facts = await client.info()
        _warn_of_eviction(facts)
        if facts.get("connected_slaves"):
            async with asyncio.timeout(seconds):
                await _warn_of_replicas(client, renew, seconds / 2)


def _warn_of_eviction(facts: Mapping[str, Any]) -> None:
    policy = evicts(facts)
    if policy is not None:
        log.warning(
            "Redis may evict the hold when its memory is full (maxmemory-policy %s): set noeviction, or use a Redis "
            "that is no cache",
            policy,
            extra={"event": "redis_evicts"},
        )


async def _warn_of_replicas(client: Redis, renew: Callable[[Redis], Awaitable[object]], seconds: float) -> None:
    # WAIT speaks of the writes of its own connection
    async with client.client() as one:
        await renew(one)
        followed = await one.wait(1, int(seconds * 1000))
    if not followed:
        log.warning(
            "No replica of Redis has the hold after %g s: a failover now would let another instance try as well",
            seconds,
            extra={"event": "redis_replica_behind"},
        )
