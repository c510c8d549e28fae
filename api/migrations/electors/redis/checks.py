"""Warns of a Redis whose configuration may lose the hold."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

log = logging.getLogger(__name__)


def evicts(info: Mapping[str, Any]) -> str | None:
    """Return the maxmemory-policy by which a Redis with this INFO may evict a key that has a ttl; None if none."""
    policy = str(info.get("maxmemory_policy", "noeviction"))
    return policy if policy != "noeviction" and info.get("maxmemory") else None


async def examine(client: Redis, renew: Callable[[Redis], Awaitable[object]], seconds: float) -> None:
    """Warn if Redis may evict the hold, or if no replica has it within half of `seconds`.

    The checks are advice: they take at most twice `seconds` and ignore errors. They ask INFO, because managed servers
    forbid CONFIG.
    """
    with suppress(RedisError, OSError):
        async with asyncio.timeout(seconds):
            info = await client.info()
        policy = evicts(info)
        if policy is not None:
            log.warning(
                "Redis may evict the hold when its memory is full (maxmemory-policy %s). To fix: set maxmemory-policy "
                "noeviction, or use a Redis that is not a cache",
                policy,
                extra={"event": "redis_evicts"},
            )
        if info.get("connected_slaves"):
            async with asyncio.timeout(seconds):
                await _check_replicas(client, renew, seconds / 2)


async def _check_replicas(client: Redis, renew: Callable[[Redis], Awaitable[object]], seconds: float) -> None:
    # WAIT counts the writes of its own connection only
    async with client.client() as connection:
        await renew(connection)
        replicas = await connection.wait(1, int(seconds * 1000))
    if not replicas:
        log.warning(
            "No replica of Redis has the hold after %g s: after a failover now, another instance could try as well. "
            "To fix: check the replication of Redis",
            seconds,
            extra={"event": "redis_replica_behind"},
        )
