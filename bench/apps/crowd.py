"""Many instances in one process, without their web servers: `python -m bench.apps.crowd VARIANT COUNT FILE`.

All start at once and run until each is ready or has failed. FILE then has a JSON list with an entry for each: when it
was ready, in seconds since 1970, or its error. When all instances of this project wait, FILE.waiting exists.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import sys
import threading
import time
from pathlib import Path

import asyncpg
from alembic.config import Config
from alembic.script import ScriptDirectory

from api.migrations.assembly import Assembly
from api.migrations.core.status import Phase, Tracker
from api.migrations.settings import MigrationSettings
from bench.apps.recipe import migrate

LOOK_SECONDS = 0.05
POLL_SECONDS = 1.0
POLL = "SELECT version_num, pg_try_advisory_xact_lock(1) FROM alembic_version"
"""The version, and whether the lock is free because its holder has died."""


trackers: list[Tracker] = []


async def ours(number: int) -> None:
    """Wait as an instance of this project does."""
    settings = MigrationSettings.load(instance=f"crowd-{os.getpid()}-{number}")
    assembly = Assembly.build(settings)
    trackers.append(assembly.tracker)
    await assembly.coordinator().become_ready()


def note_when_all_wait(how_many: int, file: Path) -> None:
    """Create `file` once all instances of this project wait."""
    while [tracker.status.phase for tracker in trackers].count(Phase.WAITING) < how_many:
        time.sleep(LOOK_SECONDS)
    file.touch()


async def recipe(_: int) -> None:
    """Wait for the advisory lock in the server, and run `alembic upgrade head`."""
    await migrate(os.environ["DATABASE_URL"])


async def poll(_: int) -> None:
    """Look once a second, which is what most people write by hand."""
    head = ScriptDirectory.from_config(Config(os.environ["ALEMBIC_CONFIG"])).get_current_head()
    connection = await asyncpg.connect(os.environ["DATABASE_URL"], server_settings={"application_name": "poll"})
    # instances do not start in the same moment
    await asyncio.sleep(random.uniform(0, POLL_SECONDS))  # noqa: S311 - no secret
    try:
        while await connection.fetchval(POLL) != head:  # noqa: ASYNC110 - polling is what is measured
            await asyncio.sleep(POLL_SECONDS)
    finally:
        await connection.close()


VARIANTS = {"ours": ours, "recipe": recipe, "poll": poll}


async def outcome(variant: str, number: int) -> float | str:
    """Return when an instance was ready, or its error."""
    try:
        await VARIANTS[variant](number)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return time.time()


async def everyone(variant: str, how_many: int) -> list[float | str]:
    """Start all instances and return what became of them."""
    return await asyncio.gather(*(outcome(variant, number) for number in range(how_many)))


if __name__ == "__main__":
    logging.basicConfig(level="WARNING")
    chosen, count, file = sys.argv[1:]
    threading.Thread(target=note_when_all_wait, args=(int(count), Path(f"{file}.waiting")), daemon=True).start()
    found = asyncio.run(everyone(chosen, int(count)))
    Path(file).with_suffix(".part").write_text(json.dumps(found))
    Path(file).with_suffix(".part").rename(file)
