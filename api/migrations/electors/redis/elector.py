"""Elects the instance that may migrate by one key in Redis, where the instances share no database lock.

What Redis decides
    The instance whose token is in the key may try; the others wait. Redis does not decide who runs: a hold that ends by
    time cannot stop a process that was paused and resumes. If the database has a lock of its own, that lock decides. If
    not, each revision confirms the hold with Redis inside its transaction, before COMMIT.

What an instance does
    It sets the key to its token for `ttl` if the key does not exist, and renews it every quarter of the ttl while it is
    still its own. It trusts the hold for 5/6 of the ttl from the start of the last renewal that succeeded. Then the
    hold is lost, whatever Redis says later, until `release`, which deletes the key only if it has the token.

Failures
    Redis is down before the run: `ElectorUnreachable`, which is retried within the wait budget; no instance migrates.
    Redis goes down or freezes during the run: the holder gives up before its ttl ends, so before a successor starts.
    Redis restarts with its data: the run continues if Redis answers in time.
    Redis restarts without its data, evicts the key, or fails over to a replica without it: another instance may acquire
    the key at once. The holder notices at its next renewal or confirmation; what it committed before stays. `checks`
    warns of this risk; a replica with the key only reduces it, because another replica may be promoted.
    The process is stopped for longer than the ttl: the key expires and a successor may run. After the process resumes,
    its next request, or its own clock, reports the loss.
    SET gets no answer: the token may be in the key. The next try recognises it, `release` deletes it, the ttl ends it.
    The clock of the Redis host steps forward: the key expires early, and the next renewal notices. It steps back: the
    key of a dead holder stays that much longer. The clocks of the instances are not compared.
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
from .errors import describe, migration_error
from .hold import KeyHold

log = logging.getLogger(__name__)

TRUSTED_PART = 5 / 6
"""Of the ttl. The rest covers clocks that run at different speeds, and the COMMIT after a confirmation."""
RENEWALS_PER_TTL = 4
RETRIES_PER_TTL = 20
REQUEST_SECONDS = 2.0
"""Limit of one request to Redis with its connection; a fifth of the ttl if that is less."""


class RedisElector:
    """An `Elector` on one key of a Redis; not of a Redis Cluster. Raises `ConfigurationError` for a malformed URL.

    Args:
        url: `redis://`, `rediss://` or `unix://`, with parameters of redis-py; time limits and retries are set here.
        key: shared by the instances that must not migrate at the same time, and by no others.
        instance: the name that the others see as the leader.
        ttl_seconds: how long the hold of an instance lasts after it died or lost Redis.
        clock: monotonic seconds.
    """

    def __init__(
        self, url: str, key: str, instance: str, ttl_seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._key = key
        self._instance = instance
        self._ttl_seconds = ttl_seconds
        self._clock = clock
        self._answer_seconds = min(REQUEST_SECONDS, ttl_seconds / 5)
        self._options = _options(url, self._answer_seconds)
        self._redis: Redis | None = None
        self._hold = self._new_hold()

    async def try_acquire(self) -> bool:
        """Set the key to this instance's token if the key does not exist."""
        hold = self._hold
        if not hold.held and await self._acquired(hold):
            hold.begin(self._renew_until_lost(hold))
            await examine(self._client, lambda client: self._lock(hold, client).reacquire(), self._answer_seconds)
            if hold.reason is not None:
                # a hold that is lost already must not block the next try
                await self.release()
        return hold.held and hold.reason is None

    async def confirm(self) -> None:
        """Renew the hold; retries while the hold is trusted."""
        hold = self._hold
        if not hold.held:
            raise HoldLost("this instance does not hold the key in Redis")
        while hold.reason is None:
            if await self._renewed(hold):
                return
            await asyncio.sleep(self._ttl_seconds / RETRIES_PER_TTL)
        raise HoldLost(hold.reason)

    async def lost(self) -> str:
        """Return the reason once the hold is lost."""
        hold = self._hold
        await hold.lost.wait()
        return hold.reason or ""

    async def ask(self) -> str | None:
        """Return the instance whose token is in the key."""
        async with self._request("reading the leader from Redis"):
            token = await self._client.get(self._key)
        text = token.decode(errors="replace") if isinstance(token, bytes) else token or ""
        return text.rpartition(":")[0] or None

    async def rehearse(self) -> None:
        """Check that this instance may write the key: XX and a key that does not exist change nothing."""
        async with self._request("checking the permissions in Redis"):
            await self._client.set(f"{self._key}:rehearsal", b"", px=1, xx=True)
            await self._is_ours(self._hold)

    async def leader(self) -> str | None:
        """Return the leader; None also if Redis does not answer."""
        with suppress(MigrationError):
            return await self.ask()
        return None

    async def release(self) -> None:
        """Delete the key if it has this instance's token, and close the connections."""
        hold, self._hold = self._hold, self._new_hold()
        client, self._redis = self._redis, None
        try:
            await hold.end()
            if client is not None and hold.may_be_stored:
                await self._delete_key(hold, client)
        finally:
            if client is not None:
                await self._close(client)

    @asynccontextmanager
    async def _request(self, doing: str) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._answer_seconds):
                yield
        except (RedisError, OSError) as error:
            raise migration_error(error, doing) from error

    async def _acquired(self, hold: KeyHold) -> bool:
        # an earlier SET without an answer may have stored the token already
        unanswered, hold.may_be_stored = hold.may_be_stored, True
        asked_at = self._clock()
        async with self._request("acquiring the hold in Redis"):
            stored = await self._lock(hold).acquire(token=hold.token)
            hold.may_be_stored = stored or (unanswered and await self._is_ours(hold))
        if hold.may_be_stored:
            hold.trust_window.granted(asked_at)
        return hold.may_be_stored and hold.trust_window.left(self._clock()) > 0

    async def _is_ours(self, hold: KeyHold) -> bool:
        with suppress(LockNotOwnedError):
            return await self._lock(hold).reacquire()
        return False

    async def _renewed(self, hold: KeyHold) -> bool:
        asked_at = self._clock()
        left = hold.trust_window.left(asked_at)
        if not left:
            paused = f"this process did nothing for longer than the {hold.trust_window.trusted_seconds:g} s of its hold"
            remedy = f"if a revision computes for so long, raise MIGRATION_REDIS_TTL_SECONDS ({self._ttl_seconds:g})"
            hold.lose(hold.renewal_error or f"{paused} in Redis. To fix: {remedy}")
            return False
        try:
            async with asyncio.timeout(min(self._answer_seconds, left)):
                await self._lock(hold).reacquire()
        except LockNotOwnedError:
            lost = "it expired, was evicted, was lost in a restart, or another instance acquired it"
            hold.lose(f"this instance no longer holds the key in Redis: {lost}")
        except (RedisError, OSError) as error:
            hold.renewal_error = f"Redis did not confirm the hold in time: {describe(error)}"
        else:
            hold.renewal_error = ""
            hold.trust_window.granted(asked_at)
            return hold.reason is None and hold.trust_window.left(self._clock()) > 0
        return False

    async def _renew_until_lost(self, hold: KeyHold) -> None:
        pause = self._ttl_seconds / RENEWALS_PER_TTL
        while hold.reason is None and not hold.ending:
            await asyncio.sleep(min(pause, hold.trust_window.left(self._clock())))
            renewed = await self._renewed(hold)
            pause = self._ttl_seconds / (RENEWALS_PER_TTL if renewed else RETRIES_PER_TTL)

    async def _delete_key(self, hold: KeyHold, client: Redis) -> None:
        level = logging.WARNING if hold.held and hold.reason is None else logging.DEBUG
        event = {"event": "redis_release"}
        try:
            async with asyncio.timeout(self._answer_seconds):
                await self._lock(hold, client).release()
        except LockNotOwnedError:
            log.log(level, "The hold in Redis was already lost before its release", extra=event)
        except (RedisError, OSError) as error:
            failed = "Cannot release the hold in Redis; it ends by itself within %g s: %s"
            log.log(level, failed, self._ttl_seconds, describe(error), extra=event)

    async def _close(self, client: Redis) -> None:
        with suppress(RedisError, OSError):
            async with asyncio.timeout(self._answer_seconds):
                await client.aclose()

    def _lock(self, hold: KeyHold, client: Redis | None = None) -> Lock:
        lock = Lock(client or self._client, self._key, timeout=self._ttl_seconds, blocking=False, thread_local=False)
        # set before SET is answered, so that a token whose SET got no answer can be recognised and deleted
        lock.local.token = hold.token
        return lock

    @property
    def _client(self) -> Redis:
        if self._redis is None:
            self._redis = Redis.from_pool(ConnectionPool(**self._options))
        return self._redis

    def _new_hold(self) -> KeyHold:
        # with a new token, so that a late answer to an earlier hold's request cannot affect this one
        token = f"{self._instance}:{secrets.token_hex(8)}".encode()
        return KeyHold(token, TrustWindow(self._ttl_seconds * TRUSTED_PART))


def _options(url: str, answer_seconds: float) -> dict[str, Any]:
    # Limits and retries are those of this module. The client's own limit uses asyncio.wait_for, which before Python
    # 3.12 may drop a cancellation that arrives together with the answer.
    fixed: dict[str, Any] = {"socket_timeout": None, "socket_connect_timeout": answer_seconds}
    fixed |= {"retry": Retry(NoBackoff(), 0), "retry_on_timeout": False, "health_check_interval": 0}
    # a client that sent its driver_info would not see why the server closes the connection
    fixed |= {"decode_responses": False, "max_connections": None, "driver_info": None}
    try:
        # protocol 2 needs no HELLO, which old servers do not know
        options: dict[str, Any] = {"protocol": 2, **parse_url(url), **fixed}
        # does not connect, but refuses unknown parameters
        ConnectionPool(**options).make_connection()  # type: ignore[no-untyped-call]
    except (ValueError, TypeError, RedisError):
        # the client's error may quote the URL
        raise ConfigurationError(
            "MIGRATION_REDIS_URL is malformed, or has a parameter that redis-py does not know. To fix: use the form "
            f"{REDIS_EXAMPLE}"
        ) from None
    return options
