"""The hold on a key in Redis: who may try to migrate, where the instances have no database lock in common.

What Redis decides, and what it does not
    The one whose token stands in the key may try; everybody else waits. It does not decide who runs: a hold that ends
    by time cannot stop a process that was paused and wakes up. Where the database has a lock of its own, that one
    decides; where it has none, the hold is confirmed with Redis inside each revision's transaction, before COMMIT.

What an instance does
    SET the key to a token of its own, if nobody has, for `ttl`. Renew it every quarter of that, if it is still ours.
    Count on it until the moment the last renewal that succeeded was *asked for*, plus the ttl, less a margin; then it
    is lost, whatever Redis says later, and stays lost until `release`, which frees the key only if it is still ours.

When something happens
    Redis is down before: `ElectorUnreachable`, worth another try within the wait budget. Nobody migrates without it.
    Redis goes down or freezes in mid-run: the holder gives up before its ttl ends, so before a successor can come.
    Redis restarts and remembers: the run goes on if it is back in time.
    Redis restarts and has forgotten, evicts the key, or fails over to a replica that never had it: somebody else may
    take the key at once. The holder finds out when it renews or confirms next, whichever comes first; what it had
    committed until then stays. A policy that evicts keys is warned of, and so is a replica that does not follow.
    WAIT for a replica narrows that gap and does not close it: the replica that is promoted may be another one.
    The process is stopped for longer than the ttl: its key has ended and a successor may be at work. When it goes on,
    the first thing that it asks or that times out tells it so.
    SET was not answered: the token may stand in the key. The next try recognises it, `release` frees it, and if
    neither reaches Redis, the ttl does.
    The clock of the Redis host steps: forward, the key ends early, which the next renewal finds; back, the key of a
    dead holder stays that much longer. The clocks of the instances are not compared with one another.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.connection import ConnectionPool, parse_url
from redis.asyncio.lock import Lock
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import LockNotOwnedError, RedisError

from ...errors import ConfigurationError, HoldLost, MigrationError
from ...urls.database_url import REDIS_EXAMPLE
from ..trust_window import TrustWindow
from .checks import examine
from .errors import describe, translate
from .hold import KeyHold

log = logging.getLogger(__name__)

RENEWALS_PER_TTL = 4
RETRIES_PER_TTL = 20
ANSWER_SECONDS = 2.0
"""Limit of one question to Redis, connecting included; a fifth of the ttl if that is less."""


class RedisElector:
    """An `Elector` on one key of one Redis (or of a Sentinel's or a cloud's primary; not of a Redis Cluster).

    Args:
        url: `redis://`, `rediss://` or `unix://`, with whatever parameters redis-py knows; time limits and retries are
            set here.
        key: the same for all that must not migrate at once, and for nobody else.
        instance: shown to the others as the leader.
        ttl_seconds: how long the hold of an instance lasts that died or lost Redis.
        clock: monotonic seconds.

    Raises:
        ConfigurationError: the URL is malformed.
    """

    def __init__(
        self,
        url: str,
        key: str,
        instance: str,
        ttl_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._key = key
        self._instance = instance
        self._ttl_seconds = ttl_seconds
        self._clock = clock
        self._answer_seconds = min(ANSWER_SECONDS, ttl_seconds / 5)
        self._options = _options(url, self._answer_seconds)
        self._redis: Redis | None = None
        self._hold = self._nothing()

    async def try_acquire(self) -> bool:
        """Put our token into the key if there is none."""
        hold = self._hold
        if not hold.held and await self._granted(hold):
            hold.begin(self._keep(hold))
            await examine(self._client, lambda one: self._lock(hold, one).reacquire(), self._answer_seconds)
            if hold.reason is not None:
                # as one that was never taken, so that the next try is a new one
                await self.release()
        return hold.held and hold.reason is None

    async def confirm(self) -> None:
        """Renew the hold, as often as it takes while it can be counted on."""
        hold = self._hold
        if not hold.held:
            raise HoldLost("this instance does not have the hold in Redis")
        while hold.reason is None:
            if await self._renewed(hold):
                return
            await asyncio.sleep(self._ttl_seconds / RETRIES_PER_TTL)
        raise HoldLost(hold.reason)

    async def lost(self) -> str:
        """Return once the hold is lost."""
        hold = self._hold
        await hold.gone.wait()
        return hold.reason or ""

    async def ask(self) -> str | None:
        """The instance in the token of the key."""
        async with self._answered("asking who migrates"):
            token = await self._client.get(self._key)
        text = token.decode(errors="replace") if isinstance(token, bytes) else token or ""
        return text.rpartition(":")[0] or None

    async def rehearse(self) -> None:
        """Make sure that the key may be written: XX and a key that does not exist change nothing."""
        async with self._answered("asking whether this instance may migrate"):
            await self._client.set(f"{self._key}:rehearsal", b"", px=1, xx=True)
            await self._is_ours(self._hold)

    async def leader(self) -> str | None:
        """The same, and nobody where there is no answer."""
        with suppress(MigrationError):
            return await self.ask()
        return None

    async def release(self) -> None:
        """Take our token out of the key, and close the connections."""
        hold, self._hold = self._hold, self._nothing()
        client, self._redis = self._redis, None
        try:
            await hold.end()
            if client is not None and hold.asked:
                await self._give_back(hold, client)
        finally:
            if client is not None:
                await self._close(client)

    @asynccontextmanager
    async def _answered(self, doing: str) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._answer_seconds):
                yield
        except (RedisError, OSError) as error:
            raise translate(error, doing) from error

    async def _granted(self, hold: KeyHold) -> bool:
        # with a SET that was not answered it may be in the key already
        unsure, hold.asked = hold.asked, True
        asked_at = self._clock()
        async with self._answered("asking who may migrate"):
            hold.asked = await self._lock(hold).acquire(token=hold.token) or (unsure and await self._is_ours(hold))
        if hold.asked:
            hold.trust.granted(asked_at)
        return hold.asked and hold.trust.left(self._clock()) > 0

    async def _is_ours(self, hold: KeyHold) -> bool:
        with suppress(LockNotOwnedError):
            return await self._lock(hold).reacquire()
        return False

    async def _renewed(self, hold: KeyHold) -> bool:
        asked_at = self._clock()
        left = hold.trust.left(asked_at)
        if not left:
            still = f"this process did nothing for longer than MIGRATION_REDIS_TTL_SECONDS={self._ttl_seconds:g}"
            hold.lose(hold.silence or f"{still}; a revision that computes for that long needs more")
            return False
        try:
            async with asyncio.timeout(min(self._answer_seconds, left)):
                await self._lock(hold).reacquire()
        except LockNotOwnedError:
            hold.lose("Redis says that the hold is not ours any more: it ended, was evicted or forgotten, or was taken")
        except (RedisError, OSError) as error:
            hold.silence = f"Redis could not be asked in time whether the hold is still ours: {describe(error)}"
        else:
            hold.silence = ""
            hold.trust.granted(asked_at)
            return hold.reason is None and hold.trust.left(self._clock()) > 0
        return False

    async def _keep(self, hold: KeyHold) -> None:
        pause = self._ttl_seconds / RENEWALS_PER_TTL
        while hold.reason is None and not hold.ending:
            await asyncio.sleep(min(pause, hold.trust.left(self._clock())))
            renewed = await self._renewed(hold)
            pause = self._ttl_seconds / (RENEWALS_PER_TTL if renewed else RETRIES_PER_TTL)

    async def _give_back(self, hold: KeyHold, client: Redis) -> None:
        event = {"event": "redis_release"}
        level = logging.WARNING if hold.held and hold.reason is None else logging.DEBUG
        try:
            async with asyncio.timeout(self._answer_seconds):
                await self._lock(hold, client).release()
        except LockNotOwnedError:
            log.log(level, "The hold in Redis was gone before it was given back", extra=event)
        except (RedisError, OSError) as error:
            left, why = self._ttl_seconds, describe(error)
            log.log(level, "Redis did not take the hold back (%s); it ends within %g s", why, left, extra=event)

    async def _close(self, client: Redis) -> None:
        with suppress(RedisError, OSError):
            async with asyncio.timeout(self._answer_seconds):
                await client.aclose()

    def _lock(self, hold: KeyHold, client: Redis | None = None) -> Lock:
        lock = Lock(client or self._client, self._key, timeout=self._ttl_seconds, blocking=False, thread_local=False)
        # known before SET is answered, so that what was not answered can be recognised, and freed
        lock.local.token = hold.token
        return lock

    @property
    def _client(self) -> Redis:
        if self._redis is None:
            self._redis = Redis.from_pool(ConnectionPool(**self._options))
        return self._redis

    def _nothing(self) -> KeyHold:
        # a new token each time: what an earlier hold asked for, and is only answered now, must not touch this one
        return KeyHold(f"{self._instance}:{secrets.token_hex(8)}".encode(), TrustWindow(self._ttl_seconds))


def _options(url: str, answer_seconds: float) -> dict[str, Any]:
    # Each question has its limit here. The library's own goes through asyncio.wait_for, which before Python 3.12 may
    # drop a cancellation that comes at the moment of the answer.
    limits = {"socket_timeout": None, "socket_connect_timeout": answer_seconds}
    # who retries, and for how long, is decided here
    ours = {**limits, "retry": Retry(NoBackoff(), 0), "retry_on_timeout": False, "health_check_interval": 0}
    # an introduction of the client would hide why the server sends it away
    ours |= {"decode_responses": False, "max_connections": None, "driver_info": None}
    try:
        # the older protocol needs no HELLO, which old servers do not know
        options: dict[str, Any] = {
            "protocol": 2,
            **parse_url(url),
            **ours,
            "decode_responses": False,
            "max_connections": None,
        }
        # connects to nothing, but refuses parameters that no connection has
        ConnectionPool(**options).make_connection()  # type: ignore[no-untyped-call]
    except (ValueError, TypeError, RedisError):
        # the library's own words may quote the URL
        raise ConfigurationError(
            f"MIGRATION_REDIS_URL is malformed, or has a parameter that is not redis-py's; expected {REDIS_EXAMPLE}"
        ) from None
    return options
