"""A process that competes for the lock: `python -m tests.support.rival URL INI INSTANCE FOLDER ROUNDS`.

Each round it acquires the lock, creates FOLDER/alone, which must not exist, removes it and releases the lock. With 0
rounds it creates FOLDER/holds once it has the lock, and holds it until it is killed.
"""

import asyncio
import sys
from pathlib import Path

from api.migrations.core.protocols import OperatorSession
from tests.support.fakes import assembled
from tests.support.waiting import until


async def compete(session: OperatorSession, folder: Path, rounds: int) -> None:
    """Acquire the lock `rounds` times."""
    alone = folder / "alone"
    for _ in range(rounds):
        await until(session.try_lock, "the lock")
        alone.touch(exist_ok=False)
        await asyncio.sleep(0)
        alone.unlink()
        await session.unlock()
    if not rounds:
        await until(session.try_lock, "the lock")
        (folder / "holds").touch()
        await asyncio.Event().wait()


async def main(url: str, ini: str, instance: str, folder: str, rounds: str) -> None:
    """Compete in a session of its own."""
    session = assembled(url, Path(ini), instance, strategy="advisory_lock").session()
    await session.open()
    try:
        await compete(session, Path(folder), int(rounds))
    finally:
        await session.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
