"""The hold in Redis keeps its contract on a real server, among many processes, and after a process is killed."""

import asyncio
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from api.migrations.electors.redis.elector import RedisElector
from api.migrations.errors import HoldLost
from tests.conftest import PROJECT
from tests.integration.redis_process import command
from tests.support.elector_contract import FOREVER_SECONDS, STRANGER, Arena, Electors, LeaseContract
from tests.support.pace import scaled
from tests.support.redis_server import RedisServer
from tests.support.waiting import until
from tests.support.warm import Process

KEY = "fastapi-migrations:test"
TTL = scaled(2.5)
PROCESSES, RACERS = 4, 50


class OnRedis:
    """An `Arena` around one key of a real server."""

    ttl_seconds = TTL

    def __init__(self, server: RedisServer) -> None:
        self.server = server

    def make_elector(self, instance: str) -> RedisElector:
        """Return a new elector for the key."""
        return RedisElector(self.server.url, KEY, instance, self.ttl_seconds)

    async def take_away(self) -> None:
        """Write another client's token into the key."""
        self.server.execute("SET", KEY, f"{STRANGER}:x")


@pytest.fixture
def arena(redis_server: RedisServer) -> Arena:
    """Return the arena on this test's server."""
    return OnRedis(redis_server)


@contextmanager
def holding(server: RedisServer) -> Iterator["subprocess.Popen[str]"]:
    """Yield a process that holds the key."""
    arguments = command("hold", server.url, KEY, TTL)
    with Process(arguments, cwd=PROJECT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


class TestOnRedis(LeaseContract):
    """The contract of every elector on Redis, and what only real processes show."""

    async def test_release_leaves_no_key_task_or_connection(
        self, redis_server: RedisServer, electors: Electors
    ) -> None:
        """The holder releases its hold: no key, task or connection is left."""
        first = await electors.leader()
        assert redis_server.info("clients")["connected_clients"] >= 2
        await first.release()
        assert redis_server.execute("EXISTS", KEY) == 0
        assert [task.get_name() for task in asyncio.all_tasks() if task.get_name() == "redis-hold"] == []

        async def alone() -> bool:
            return bool(redis_server.info("clients")["connected_clients"] == 1)

        await until(alone, "every connection closed", seconds=FOREVER_SECONDS)

    async def test_a_killed_holder_is_replaced_after_its_ttl(
        self, redis_server: RedisServer, electors: Electors
    ) -> None:
        """SIGKILL ends the holder: its key names it until the TTL ends, then another elector acquires the key."""
        second = electors("second")
        with holding(redis_server) as process:
            process.kill()
            process.wait()
            assert not await second.try_acquire()
            assert await second.leader() == "process"
            await until(second.try_acquire, "a successor", seconds=FOREVER_SECONDS)

    async def test_a_stopped_holder_detects_its_loss_when_it_continues(
        self, redis_server: RedisServer, electors: Electors
    ) -> None:
        """SIGSTOP outlasts the TTL: a successor holds the key; after SIGCONT the first exits with a loss's code."""
        second = electors("second")
        with holding(redis_server) as process:
            os.kill(process.pid, signal.SIGSTOP)
            await until(second.try_acquire, "a successor", seconds=FOREVER_SECONDS)
            os.kill(process.pid, signal.SIGCONT)
            said, _ = await asyncio.to_thread(process.communicate, timeout=FOREVER_SECONDS)
        assert "did nothing for longer than" in said
        assert process.returncode == HoldLost.exit_code
        await second.confirm()
        assert await second.leader() == "second"


def test_two_of_200_electors_never_hold_the_key_at_once(redis_server: RedisServer, tmp_path: Path) -> None:
    """200 electors in four processes each acquire the key once, and no two of them hold it at the same time."""
    crowd = [
        Process(
            command("race", redis_server.url, KEY, 30, tmp_path, number * RACERS, RACERS),
            cwd=PROJECT,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(PROCESSES)
    ]
    ended = [(process.communicate(timeout=2 * FOREVER_SECONDS)[1], process.returncode) for process in crowd]
    assert ended == [("", 0)] * PROCESSES
    assert len(list(tmp_path.glob("turn-*"))) == PROCESSES * RACERS
    assert redis_server.execute("EXISTS", KEY) == 0
