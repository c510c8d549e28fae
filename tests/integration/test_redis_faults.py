"""A hold in Redis while the server restarts, freezes, evicts or fails over: the holder detects it in time."""

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

import pytest

from api.migrations.electors.redis.elector import RedisElector
from api.migrations.electors.redis.hold import KeyHold
from api.migrations.errors import AccessRefused, ElectorUnreachable, HoldLost
from tests.support.elector_contract import FOREVER_SECONDS, Electors, soon
from tests.support.pace import scaled
from tests.support.redis_server import RedisServer
from tests.support.waiting import until, wait_until

KEY = "fastapi-migrations:test"
TTL, LONG = scaled(2.5), scaled(20)
TRIES, SEED = 200, 4242

Servers = Callable[..., RedisServer]


class ElectorFactory:
    """Makes electors for any server, and releases them all at the end of the test."""

    def __init__(self) -> None:
        self._made: list[RedisElector] = []

    def __call__(
        self,
        server: RedisServer,
        instance: str = "first",
        *,
        url: str | None = None,
        ttl_seconds: float = TTL,
        clock: Callable[[], float] = time.monotonic,
    ) -> RedisElector:
        """Return a new elector for that server."""
        self._made.append(RedisElector(url or server.url, KEY, instance, ttl_seconds, clock))
        return self._made[-1]

    async def release(self) -> None:
        """Release all electors."""
        for elector in self._made:
            await elector.release()


@pytest.fixture
async def made() -> AsyncIterator[ElectorFactory]:
    """Yield a function that makes electors."""
    made = ElectorFactory()
    yield made
    await made.release()


@pytest.fixture
def electors(made: ElectorFactory, redis_server: RedisServer) -> Electors:
    """Return a function that makes electors for this test's server."""
    return Electors(lambda instance: made(redis_server, instance))


def expires_at(server: RedisServer) -> float:
    """Return when the key expires, by the clock of this host."""
    return float(server.execute("PEXPIRETIME", KEY)) / 1000


def has_key(server: RedisServer) -> bool:
    """Return whether the key exists."""
    return bool(server.execute("EXISTS", KEY))


def events(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the event keys of the logged warnings."""
    return [str(getattr(r, "event", r.message)) for r in caplog.records if r.levelno >= logging.WARNING]


async def test_a_restart_that_keeps_the_data_keeps_the_hold(redis_server: RedisServer, made: ElectorFactory) -> None:
    """Redis restarts with its data: the holder confirms its hold and another elector cannot acquire it."""
    first, second = made(redis_server, ttl_seconds=LONG), made(redis_server, "second")
    assert await first.try_acquire()
    redis_server.restart(keep=True)
    await first.confirm()
    assert not await second.try_acquire()


async def test_a_confirmation_is_retried_during_a_restart(redis_server: RedisServer, made: ElectorFactory) -> None:
    """Redis restarts during a confirmation: the elector retries it within the hold and succeeds."""
    first = made(redis_server, ttl_seconds=LONG)
    assert await first.try_acquire()
    redis_server.kill()
    confirmed = asyncio.create_task(first.confirm())
    await asyncio.wait([confirmed], timeout=0.1)
    assert not confirmed.done()
    redis_server.start()
    await soon(confirmed)


async def test_a_restart_without_data_ends_the_hold(redis_server: RedisServer, electors: Electors) -> None:
    """Redis restarts without its data: `confirm` raises HoldLost, and a release deletes no other elector's key."""
    first, second = await electors.leader(), electors("second")
    redis_server.restart(keep=False)
    with pytest.raises(HoldLost, match="no longer holds the key"):
        await first.confirm()
    assert await second.try_acquire()
    await first.release()
    assert has_key(redis_server)


async def test_a_renewal_detects_a_restart_without_data(redis_server: RedisServer, electors: Electors) -> None:
    """Redis restarts without its data: the next renewal reports the loss, without a confirmation."""
    first = await electors.leader()
    redis_server.restart(keep=False)
    assert "no longer holds the key" in await soon(first.lost())


async def test_an_evicted_key_ends_the_hold(redis_server: RedisServer, electors: Electors) -> None:
    """Redis evicts the key: `confirm` raises HoldLost and names the eviction."""
    first = await electors.leader()
    redis_server.execute("CONFIG", "SET", "maxmemory-policy", "allkeys-random", "maxmemory", 1)
    wait_until(lambda: not has_key(redis_server), "the key evicted", seconds=FOREVER_SECONDS)
    with pytest.raises(HoldLost, match="evicted"):
        await first.confirm()


@pytest.mark.parametrize("fault", [RedisServer.freeze, RedisServer.kill])
async def test_the_holder_gives_up_before_its_key_expires(
    redis_server: RedisServer, made: ElectorFactory, fault: Callable[[RedisServer], None]
) -> None:
    """Redis is frozen or killed: the holder gives up before its key expires, even if Redis comes back later."""
    first = made(redis_server, ttl_seconds=scaled(6))
    assert await first.try_acquire()
    lost, ends = asyncio.create_task(first.lost()), expires_at(redis_server)
    fault(redis_server)
    with pytest.raises(HoldLost, match="did not confirm the hold in time"):
        await soon(first.confirm())
    assert "did not confirm the hold in time" in await soon(lost)
    assert time.time() < ends
    redis_server.restart(keep=True)
    with pytest.raises(HoldLost):
        await first.confirm()


async def test_a_release_without_an_answer_returns_and_warns(
    redis_server: RedisServer, electors: Electors, caplog: pytest.LogCaptureFixture
) -> None:
    """Redis is frozen: `release` returns with one warning, and the key expires."""
    first, second = await electors.leader(), electors("second")
    redis_server.freeze()
    await soon(first.release())
    assert events(caplog) == ["redis_release"]
    redis_server.thaw()
    await until(second.try_acquire, "a successor", seconds=FOREVER_SECONDS)


async def test_the_release_of_a_lost_hold_logs_nothing(
    redis_server: RedisServer, electors: Electors, caplog: pytest.LogCaptureFixture
) -> None:
    """The hold is already lost: `release` logs no second warning."""
    first = await electors.leader()
    redis_server.kill()
    await soon(first.lost())
    await soon(first.release())
    assert events(caplog) == []


async def leave_set_unanswered(server: RedisServer, first: RedisElector) -> None:
    """Leave a SET without an answer on a frozen server, which executes it once it continues."""
    assert await first.leader() is None
    server.freeze()
    with pytest.raises(ElectorUnreachable, match="did not answer in time"):
        await first.try_acquire()
    server.thaw()
    wait_until(lambda: has_key(server), "the SET carried out", seconds=FOREVER_SECONDS)


async def test_a_retry_finds_its_unanswered_set(redis_server: RedisServer, made: ElectorFactory) -> None:
    """The answer to a SET is lost: the next attempt of the same elector finds its token and holds the key."""
    first = made(redis_server, ttl_seconds=scaled(6))
    await leave_set_unanswered(redis_server, first)
    with pytest.raises(HoldLost):
        await first.confirm()
    assert await first.try_acquire()
    await first.confirm()
    await first.release()
    assert not has_key(redis_server)


async def test_a_release_deletes_the_key_of_an_unanswered_set(redis_server: RedisServer, made: ElectorFactory) -> None:
    """The answer to a SET is lost: `release` deletes the key."""
    first = made(redis_server, ttl_seconds=scaled(6))
    await leave_set_unanswered(redis_server, first)
    await first.release()
    assert not has_key(redis_server)


async def test_the_key_of_an_abandoned_set_expires(redis_server: RedisServer, electors: Electors) -> None:
    """An elector gives up while Redis is frozen: its key expires and another elector acquires it."""
    first, second = electors("first"), electors("second")
    assert await first.leader() is None
    redis_server.freeze()
    with pytest.raises(ElectorUnreachable):
        await first.try_acquire()
    await soon(first.release())
    redis_server.thaw()
    await until(second.try_acquire, "a successor", seconds=FOREVER_SECONDS)


async def test_a_cancelled_attempt_leaves_no_key(redis_server: RedisServer, made: ElectorFactory) -> None:
    """200 attempts are cancelled at any moment: after the release no key is left."""
    chance, ended = random.Random(SEED), {"granted": 0, "cancelled": 0}
    takes = 0.01
    for _ in range(TRIES):
        first = made(redis_server, ttl_seconds=600)
        try:
            async with asyncio.timeout(chance.uniform(0, takes)):
                assert await first.try_acquire()
            ended["granted"] += 1
            takes *= 0.9  # keeps about half of the attempts successful on any machine
        except TimeoutError:
            ended["cancelled"] += 1
            takes *= 1.1
        await first.release()
        assert not has_key(redis_server)
    assert min(ended.values()) > TRIES // 20, ended


async def test_an_answer_that_comes_too_late_grants_nothing(redis_server: RedisServer, made: ElectorFactory) -> None:
    """A process stood still while Redis answered: the grant does not count, and the next attempt succeeds."""
    moments = iter([0.0, 1000.0])
    first = made(redis_server, ttl_seconds=30, clock=lambda: next(moments, 1000.0))
    assert not await first.try_acquire()
    with pytest.raises(HoldLost):
        await first.confirm()
    assert await first.try_acquire()
    await first.release()
    assert not has_key(redis_server)


async def test_an_unexpected_error_in_a_renewal_ends_the_hold(redis_server: RedisServer, made: ElectorFactory) -> None:
    """The renewal task raises an unexpected error: the hold is lost, because it is not renewed any more."""
    broken = asyncio.Event()

    def clock() -> float:
        if broken.is_set():
            raise RuntimeError("no clock")
        return time.monotonic()

    first = made(redis_server, clock=clock)
    assert await first.try_acquire()
    broken.set()
    assert "renewal" in await soon(first.lost())
    with pytest.raises(HoldLost):
        await first.confirm()


class UncancellableElector(RedisElector):
    """An elector whose renewals ignore a cancellation, as `asyncio.wait_for` may before Python 3.12."""

    def __init__(self, url: str) -> None:
        super().__init__(url, KEY, "deaf", scaled(2))
        self.renewing = asyncio.Event()

    async def _renewed(self, hold: KeyHold) -> bool:
        renewed = await super()._renewed(hold)
        self.renewing.set()
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(0.1)
        return renewed


async def test_a_renewal_that_ignores_its_cancellation_does_not_keep_the_key(redis_server: RedisServer) -> None:
    """A renewal ignores its cancellation: `release` still returns and the key is free."""
    elector = UncancellableElector(redis_server.url)
    assert await elector.try_acquire()
    await soon(elector.renewing.wait())
    await soon(elector.release())
    assert not redis_server.execute("EXISTS", KEY)


async def test_an_elector_retries_while_redis_is_down(redis_server: RedisServer, electors: Electors) -> None:
    """Redis is down: the attempt raises a transient error without the port, and succeeds once Redis is up."""
    first = electors("first")
    redis_server.kill()
    with pytest.raises(ElectorUnreachable, match="no connection to Redis") as raised:
        await first.try_acquire()
    assert str(redis_server.port) not in str(raised.value)
    assert await first.leader() is None
    redis_server.start()
    assert await first.try_acquire()


async def test_a_replica_grants_nothing_until_it_is_promoted(redis_servers: Servers, made: ElectorFactory) -> None:
    """The URL leads to a replica: the error says so, and the elector acquires the key after a promotion."""
    primary = redis_servers()
    replica = redis_servers(replica_of=primary)
    first = made(replica)
    with pytest.raises(ElectorUnreachable, match="MIGRATION_REDIS_URL at the primary"):
        await first.try_acquire()
    replica.execute("REPLICAOF", "NO", "ONE")
    assert await first.try_acquire()


async def test_an_elector_retries_while_redis_is_full(redis_server: RedisServer, electors: Electors) -> None:
    """Redis is at maxmemory: the attempt raises a transient error, and succeeds once there is room."""
    first = electors("first")
    redis_server.execute("CONFIG", "SET", "maxmemory", 1)
    with pytest.raises(ElectorUnreachable, match="maxmemory"):
        await first.try_acquire()
    redis_server.execute("CONFIG", "SET", "maxmemory", 0)
    assert await first.try_acquire()


async def test_an_elector_retries_while_redis_has_no_free_connection(
    redis_servers: Servers, made: ElectorFactory
) -> None:
    """Redis is at maxclients: the attempt raises a transient error, and succeeds once a client has left."""
    server = redis_servers(maxclients="1")
    other, first = made(server, "other"), made(server)
    assert await other.leader() is None
    with pytest.raises(ElectorUnreachable, match="maxclients"):
        await first.try_acquire()
    await other.release()

    async def acquired() -> bool:
        with suppress(ElectorUnreachable):
            return await first.try_acquire()
        return False

    await until(acquired, "the key", seconds=FOREVER_SECONDS)


@pytest.mark.parametrize("password", ["wr0ng", None])
async def test_a_wrong_password_is_final(redis_servers: Servers, made: ElectorFactory, password: str | None) -> None:
    """The password is wrong or missing: the error is final, names the setting, and shows no password or host."""
    server = redis_servers(requirepass="s3cret")
    first = made(server, url=server.url_with(password))
    with pytest.raises(AccessRefused, match="MIGRATION_REDIS_URL") as raised:
        await first.try_acquire()
    assert [word for word in ("s3cret", "wr0ng", "127.0.0.1", str(server.port)) if word in str(raised.value)] == []


async def test_the_permissions_in_the_error_are_sufficient(redis_server: RedisServer, made: ElectorFactory) -> None:
    """A Redis user lacks commands: the error is final, and the commands that it lists are enough."""
    rights = ["SETUSER", "app", "on", ">pw", "resetkeys", "~fastapi-migrations:*", "nocommands"]
    redis_server.execute("ACL", *rights)
    first = made(redis_server, url=redis_server.url_with("pw", "app"))
    with pytest.raises(AccessRefused, match="SET, GET, DEL, PEXPIRE, EVALSHA and SCRIPT LOAD"):
        await first.try_acquire()
    redis_server.execute("ACL", *rights, "+set", "+get", "+del", "+pexpire", "+evalsha", "+script|load")
    assert await first.try_acquire()
    await first.confirm()
    assert await first.leader() == "first"
    await first.release()
    assert not has_key(redis_server)


@pytest.mark.parametrize(("policy", "warned"), [("volatile-lru", ["redis_evicts"]), ("noeviction", [])])
async def test_an_evicting_policy_is_logged_once(
    redis_servers: Servers, made: ElectorFactory, caplog: pytest.LogCaptureFixture, policy: str, warned: list[str]
) -> None:
    """Redis may evict the key: the elector that acquired it logs one warning, and the other one none."""
    server = redis_servers(maxmemory="100mb", maxmemory_policy=policy)
    first, second = made(server), made(server, "second")
    assert await first.try_acquire()
    assert not await second.try_acquire()
    await first.confirm()
    assert events(caplog) == warned


async def test_a_replica_that_does_not_follow_is_logged(
    redis_servers: Servers, made: ElectorFactory, caplog: pytest.LogCaptureFixture
) -> None:
    """A replica does not acknowledge the key: the elector logs a warning; it logs none while the replica follows."""
    primary = redis_servers()
    replica = redis_servers(replica_of=primary)
    # long enough that a slow machine is not taken for a replica that does not follow
    first = made(primary, ttl_seconds=LONG)
    assert await first.try_acquire()
    wait_until(lambda: has_key(replica), "the key on the replica", seconds=FOREVER_SECONDS)
    assert events(caplog) == []
    await first.release()
    replica.freeze()
    assert await first.try_acquire()
    assert events(caplog) == ["redis_replica_behind"]
    await first.confirm()


async def test_a_failover_that_lost_the_key_ends_the_hold(redis_servers: Servers, made: ElectorFactory) -> None:
    """A failover loses the key: the first elector loses its hold, and the database's lock covers the overlap."""
    primary = redis_servers()
    replica = redis_servers(replica_of=primary)
    first, second = made(primary), made(replica, "second")
    replica.freeze()
    assert await first.try_acquire()
    primary.kill()
    replica.thaw()
    replica.execute("REPLICAOF", "NO", "ONE")
    with pytest.raises(HoldLost):
        await soon(first.confirm())
    await until(second.try_acquire, "a successor", seconds=FOREVER_SECONDS)
