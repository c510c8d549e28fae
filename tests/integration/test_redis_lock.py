"""The hold in Redis keeps the contract on a real server, alone, in a crowd of processes, and when one is killed."""

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
        """One more who wants the key."""
        return RedisElector(self.server.url, KEY, instance, self.ttl_seconds)

    async def take_away(self) -> None:
        """A stranger's token stands in the key."""
        self.server.execute("SET", KEY, f"{STRANGER}:x")


@pytest.fixture
def arena(redis_server: RedisServer) -> Arena:
    """A server of the test's own."""
    return OnRedis(redis_server)


@contextmanager
def holding(server: RedisServer) -> Iterator["subprocess.Popen[str]"]:
    """A process that has the key."""
    arguments = command("hold", server.url, KEY, TTL)
    with Process(arguments, cwd=PROJECT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


class TestOnRedis(LeaseContract):
    """All of it, and what only real processes show."""

    async def test_release_leaves_nothing(self, redis_server: RedisServer, electors: Electors) -> None:
        """Neither the key, nor a task, nor a connection."""
        first = await electors.leader()
        assert redis_server.info("clients")["connected_clients"] >= 2
        await first.release()
        assert redis_server.execute("EXISTS", KEY) == 0
        assert [task.get_name() for task in asyncio.all_tasks() if task.get_name() == "redis-hold"] == []

        async def alone() -> bool:
            return bool(redis_server.info("clients")["connected_clients"] == 1)

        await until(alone, "every connection closed", seconds=FOREVER_SECONDS)

    async def test_a_killed_holder_is_succeeded(self, redis_server: RedisServer, electors: Electors) -> None:
        """Its key is there until the ttl ends, and names it."""
        second = electors("second")
        with holding(redis_server) as process:
            process.kill()
            process.wait()
            assert not await second.try_acquire()
            assert await second.leader() == "process"
            await until(second.try_acquire, "a successor", seconds=FOREVER_SECONDS)

    async def test_a_stopped_process_wakes_up_and_knows(self, redis_server: RedisServer, electors: Electors) -> None:
        """It was succeeded meanwhile; it ends with the exit code of a loss, and its successor goes on."""
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


def test_never_two_of_a_crowd_at_once(redis_server: RedisServer, tmp_path: Path) -> None:
    """200 electors in four processes; each has its turn, and whoever is not alone in it fails."""
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
