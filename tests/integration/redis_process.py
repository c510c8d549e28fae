"""Processes that acquire a key: `python -m tests.integration.redis_process hold|race <url> <key> <ttl> …`."""

import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from api.migrations.electors.redis.elector import RedisElector
from api.migrations.errors import HoldLost
from tests.support.pace import scaled
from tests.support.waiting import until


def command(work: str, url: str, key: str, ttl_seconds: float, *more: object) -> list[str]:
    """Return the command that starts such a process."""
    return [sys.executable, "-m", "tests.integration.redis_process", work, url, key, str(ttl_seconds), *map(str, more)]


def say(line: str) -> None:
    """Print a line for the test."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


async def hold(url: str, key: str, ttl_seconds: float) -> int:
    """Acquire the key, print "held", print the reason when the hold is lost; return the loss's exit code."""
    elector = RedisElector(url, key, "process", ttl_seconds)
    assert await elector.try_acquire()
    say("held")
    say(await elector.lost())
    try:
        await elector.confirm()
    except HoldLost as error:
        return error.exit_code
    finally:
        await elector.release()
    return 0


async def race(url: str, key: str, ttl_seconds: float, folder: str, first: str, count: str) -> int:
    """Let `count` electors acquire the key once each; fail if two of them hold it at the same time."""
    await asyncio.gather(*(_turn(url, key, ttl_seconds, Path(folder), int(first) + n) for n in range(int(count))))
    return 0


async def _turn(url: str, key: str, ttl_seconds: float, folder: Path, number: int) -> None:
    elector = RedisElector(url, key, f"racer-{number}", ttl_seconds)
    await until(elector.try_acquire, f"the turn of racer {number}", seconds=scaled(120))
    alone = folder / "alone"
    os.close(os.open(alone, os.O_CREAT | os.O_EXCL))
    await elector.confirm()
    (folder / f"turn-{number}").touch()
    alone.unlink()
    await elector.release()


def main(arguments: Sequence[str]) -> int:
    """Run `hold` or `race`."""
    work, url, key, ttl_seconds, *more = arguments
    if work == "race":
        return asyncio.run(race(url, key, float(ttl_seconds), *more))
    return asyncio.run(hold(url, key, float(ttl_seconds)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
