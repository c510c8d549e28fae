"""What a Redis can do to a hold, each on a real server: the holder finds out in time, and nothing is stranded."""

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


class Made:
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
        """A new elector for that server."""
        self._made.append(RedisElector(url or server.url, KEY, instance, ttl_seconds, clock))
        return self._made[-1]

    async def release(self) -> None:
        """Release them all."""
        for elector in self._made:
            await elector.release()


@pytest.fixture
async def made() -> AsyncIterator[Made]:
    """Makes electors."""
    made = Made()
    yield made
    await made.release()


@pytest.fixture
def electors(made: Made, redis_server: RedisServer) -> Electors:
    """Makes electors for the test's own server."""
    return Electors(lambda instance: made(redis_server, instance))


def expires_at(server: RedisServer) -> float:
    """When the key ends, by the clock of the server's host, which is ours."""
    return float(server.execute("PEXPIRETIME", KEY)) / 1000


def has_key(server: RedisServer) -> bool:
    """Whether somebody's token stands in the key."""
    return bool(server.execute("EXISTS", KEY))


def events(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The event keys that were logged as warnings."""
    return [str(getattr(r, "event", r.message)) for r in caplog.records if r.levelno >= logging.WARNING]


async def test_a_restart_that_remembers_is_survived(redis_server: RedisServer, made: Made) -> None:
    """The key is there again in time, and the hold goes on."""
    first, second = made(redis_server, ttl_seconds=LONG), made(redis_server, "second")
    assert await first.try_acquire()
    redis_server.restart(keep=True)
    await first.confirm()
    assert not await second.try_acquire()


async def test_a_confirmation_outlasts_a_restart(redis_server: RedisServer, made: Made) -> None:
    """It is asked again while the hold can be counted on."""
    first = made(redis_server, ttl_seconds=LONG)
    assert await first.try_acquire()
    redis_server.kill()
    confirmed = asyncio.create_task(first.confirm())
    await asyncio.wait([confirmed], timeout=0.1)
    assert not confirmed.done()
    redis_server.start()
    await soon(confirmed)


async def test_a_restart_that_forgot_ends_the_hold(redis_server: RedisServer, electors: Electors) -> None:
    """Even before anybody else has taken it."""
    first, second = await electors.leader(), electors("second")
    redis_server.restart(keep=False)
    with pytest.raises(HoldLost, match="no longer holds the key"):
        await first.confirm()
    assert await second.try_acquire()
    await first.release()
    assert has_key(redis_server)


async def test_a_restart_that_forgot_is_noticed_without_asking(redis_server: RedisServer, electors: Electors) -> None:
    """By the next renewal."""
    first = await electors.leader()
    redis_server.restart(keep=False)
    assert "no longer holds the key" in await soon(first.lost())


async def test_an_evicted_key_ends_the_hold(redis_server: RedisServer, electors: Electors) -> None:
    """A cache drops what it likes."""
    first = await electors.leader()
    redis_server.execute("CONFIG", "SET", "maxmemory-policy", "allkeys-random", "maxmemory", 1)
    wait_until(lambda: not has_key(redis_server), "the key evicted", seconds=FOREVER_SECONDS)
    with pytest.raises(HoldLost, match="evicted"):
        await first.confirm()


@pytest.mark.parametrize("fault", [RedisServer.freeze, RedisServer.kill])
async def test_the_holder_gives_up_before_its_key_ends(
    redis_server: RedisServer, made: Made, fault: Callable[[RedisServer], None]
) -> None:
    """With Redis silent or gone it lets go while nobody else can have the key, and for good, were Redis back or not."""
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


async def test_the_release_of_a_hold_that_redis_cannot_take_back(
    redis_server: RedisServer, electors: Electors, caplog: pytest.LogCaptureFixture
) -> None:
    """It comes back, says so in one line, and the key ends by itself."""
    first, second = await electors.leader(), electors("second")
    redis_server.freeze()
    await soon(first.release())
    assert events(caplog) == ["redis_release"]
    redis_server.thaw()
    await until(second.try_acquire, "a successor", seconds=FOREVER_SECONDS)


async def test_the_release_of_what_is_lost_is_no_news(
    redis_server: RedisServer, electors: Electors, caplog: pytest.LogCaptureFixture
) -> None:
    """The run has failed with that reason already."""
    first = await electors.leader()
    redis_server.kill()
    await soon(first.lost())
    await soon(first.release())
    assert events(caplog) == []


async def unanswered(server: RedisServer, first: RedisElector) -> None:
    """Its SET is on the way while the server is frozen, and is carried out when that goes on."""
    assert await first.leader() is None
    server.freeze()
    with pytest.raises(ElectorUnreachable, match="did not answer in time"):
        await first.try_acquire()
    server.thaw()
    wait_until(lambda: has_key(server), "the SET carried out", seconds=FOREVER_SECONDS)


async def test_a_set_without_answer_is_recognised(redis_server: RedisServer, made: Made) -> None:
    """The token stands in the key, and the next try of the same elector finds it there."""
    first = made(redis_server, ttl_seconds=scaled(6))
    await unanswered(redis_server, first)
    with pytest.raises(HoldLost):
        await first.confirm()
    assert await first.try_acquire()
    await first.confirm()
    await first.release()
    assert not has_key(redis_server)


async def test_a_set_without_answer_is_taken_back(redis_server: RedisServer, made: Made) -> None:
    """By the release, though nobody knew that there was anything to release."""
    first = made(redis_server, ttl_seconds=scaled(6))
    await unanswered(redis_server, first)
    await first.release()
    assert not has_key(redis_server)


async def test_a_set_that_nobody_could_take_back_ends(redis_server: RedisServer, electors: Electors) -> None:
    """The elector gave up while Redis was frozen; the key is stranded for no longer than the ttl."""
    first, second = electors("first"), electors("second")
    assert await first.leader() is None
    redis_server.freeze()
    with pytest.raises(ElectorUnreachable):
        await first.try_acquire()
    await soon(first.release())
    redis_server.thaw()
    await until(second.try_acquire, "a successor", seconds=FOREVER_SECONDS)


async def test_cancelling_races_the_grant(redis_server: RedisServer, made: Made) -> None:
    """A try is cut off at any moment, while connecting, asking or being told: after the release no key is left."""
    chance, ended = random.Random(SEED), {"granted": 0, "cancelled": 0}
    takes = 0.01
    for _ in range(TRIES):
        first = made(redis_server, ttl_seconds=600)
        try:
            async with asyncio.timeout(chance.uniform(0, takes)):
                assert await first.try_acquire()
            ended["granted"] += 1
            takes *= 0.9  # about half of them are granted, however fast the machine is
        except TimeoutError:
            ended["cancelled"] += 1
            takes *= 1.1
        await first.release()
        assert not has_key(redis_server)
    assert min(ended.values()) > TRIES // 20, ended


async def test_an_answer_that_came_too_late_is_not_counted(redis_server: RedisServer, made: Made) -> None:
    """The process stood still between question and answer; the next try asks anew."""
    moments = iter([0.0, 1000.0])
    first = made(redis_server, ttl_seconds=30, clock=lambda: next(moments, 1000.0))
    assert not await first.try_acquire()
    with pytest.raises(HoldLost):
        await first.confirm()
    assert await first.try_acquire()
    await first.release()
    assert not has_key(redis_server)


async def test_a_renewal_that_breaks_is_a_loss(redis_server: RedisServer, made: Made) -> None:
    """Whatever ended it, nobody renews any more."""
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


class Deaf(RedisElector):
    """Its renewals drop a cancellation, as `asyncio.wait_for` may before Python 3.12."""

    def __init__(self, url: str) -> None:
        super().__init__(url, KEY, "deaf", scaled(2))
        self.renewing = asyncio.Event()

    async def _renewed(self, hold: KeyHold) -> bool:
        renewed = await super()._renewed(hold)
        self.renewing.set()
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(0.1)
        return renewed


async def test_a_renewal_that_is_deaf_does_not_keep_its_hold(redis_server: RedisServer) -> None:
    """The release comes to its end, and the key is free."""
    elector = Deaf(redis_server.url)
    assert await elector.try_acquire()
    await soon(elector.renewing.wait())
    await soon(elector.release())
    assert not redis_server.execute("EXISTS", KEY)


async def test_a_redis_that_is_down_is_asked_again(redis_server: RedisServer, electors: Electors) -> None:
    """The very same elector gets the key once it is up."""
    first = electors("first")
    redis_server.kill()
    with pytest.raises(ElectorUnreachable, match="no connection to Redis") as raised:
        await first.try_acquire()
    assert str(redis_server.port) not in str(raised.value)
    assert await first.leader() is None
    redis_server.start()
    assert await first.try_acquire()


async def test_a_replica_grants_nothing_until_it_is_promoted(redis_servers: Servers, made: Made) -> None:
    """A URL that leads to one says so, and gets the key after the failover."""
    primary = redis_servers()
    replica = redis_servers(replica_of=primary)
    first = made(replica)
    with pytest.raises(ElectorUnreachable, match="MIGRATION_REDIS_URL at the primary"):
        await first.try_acquire()
    replica.execute("REPLICAOF", "NO", "ONE")
    assert await first.try_acquire()


async def test_a_full_redis_is_asked_again(redis_server: RedisServer, electors: Electors) -> None:
    """Somebody has to make room, and then it goes on."""
    first = electors("first")
    redis_server.execute("CONFIG", "SET", "maxmemory", 1)
    with pytest.raises(ElectorUnreachable, match="maxmemory"):
        await first.try_acquire()
    redis_server.execute("CONFIG", "SET", "maxmemory", 0)
    assert await first.try_acquire()


async def test_a_redis_without_free_connections_is_asked_again(redis_servers: Servers, made: Made) -> None:
    """Its limit is reached by others, who leave."""
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
async def test_a_wrong_password_is_final(redis_servers: Servers, made: Made, password: str | None) -> None:
    """The message says what to correct, and shows neither password nor host."""
    server = redis_servers(requirepass="s3cret")
    first = made(server, url=server.url_with(password))
    with pytest.raises(AccessRefused, match="MIGRATION_REDIS_URL") as raised:
        await first.try_acquire()
    assert [word for word in ("s3cret", "wr0ng", "127.0.0.1", str(server.port)) if word in str(raised.value)] == []


async def test_a_user_with_just_the_permissions_of_the_message(redis_server: RedisServer, made: Made) -> None:
    """Without them the answer is final; with what it lists all works, advice aside."""
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
async def test_a_policy_that_evicts_is_warned_of(
    redis_servers: Servers, made: Made, caplog: pytest.LogCaptureFixture, policy: str, warned: list[str]
) -> None:
    """Once, by the one that got the key."""
    server = redis_servers(maxmemory="100mb", maxmemory_policy=policy)
    first, second = made(server), made(server, "second")
    assert await first.try_acquire()
    assert not await second.try_acquire()
    await first.confirm()
    assert events(caplog) == warned


async def test_a_replica_that_does_not_follow_is_warned_of(
    redis_servers: Servers, made: Made, caplog: pytest.LogCaptureFixture
) -> None:
    """And one that does has the key, and is not."""
    primary = redis_servers()
    replica = redis_servers(replica_of=primary)
    # long enough that a busy machine does not count as a replica that does not follow
    first = made(primary, ttl_seconds=LONG)
    assert await first.try_acquire()
    wait_until(lambda: has_key(replica), "the key on the replica", seconds=FOREVER_SECONDS)
    assert events(caplog) == []
    await first.release()
    replica.freeze()
    assert await first.try_acquire()
    assert events(caplog) == ["redis_replica_behind"]
    await first.confirm()


async def test_a_failover_that_lost_the_key_ends_the_hold(redis_servers: Servers, made: Made) -> None:
    """Two may try for a moment, which is why the database decides; the first one gives up all the same."""
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
