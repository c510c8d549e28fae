"""All instances of `./dev up`: starts, watches and stops them together, and reports problems."""

import asyncio
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import httpx

from devtools.instance import Instance

LOOK_SECONDS = 0.1
ANSWER_SECONDS = 2.0


class Fleet:
    """The instances, in the order of their names."""

    def __init__(self, listeners: Iterator[socket.socket], scale: int, logs: Path) -> None:
        logs.mkdir(parents=True, exist_ok=True)
        self.instances = [Instance(f"api-{number}", next(listeners), logs) for number in range(1, scale + 1)]

    async def start(self, environment: Mapping[str, str]) -> None:
        """Start all instances at once."""
        await asyncio.gather(*(instance.start(environment) for instance in self.instances))

    async def watch(self, show: Callable[[Sequence[Instance]], None], budget_seconds: float) -> None:
        """Poll and `show` all instances until each has its final state, or the budget ends."""
        deadline = time.monotonic() + budget_seconds
        show(self.instances)
        async with httpx.AsyncClient(timeout=ANSWER_SECONDS, trust_env=False) as client:
            while True:
                await asyncio.gather(*(instance.look(client) for instance in self.instances))
                show(self.instances)
                if all(instance.report.over for instance in self.instances) or time.monotonic() > deadline:
                    return
                await asyncio.sleep(LOOK_SECONDS)

    async def serve(self, lost: Callable[[Instance], None]) -> None:
        """Return when every process has exited; call `lost` for each that exits."""
        running = [instance for instance in self.instances if instance.report.phase != "exited"]
        async with httpx.AsyncClient(timeout=ANSWER_SECONDS, trust_env=False) as client:
            while running:
                await asyncio.gather(*(instance.look(client) for instance in running))
                for instance in [each for each in running if each.report.phase == "exited"]:
                    running.remove(instance)
                    lost(instance)
                await asyncio.sleep(LOOK_SECONDS)

    async def stop(self) -> None:
        """Stop the running instances at once."""
        await asyncio.gather(*(instance.stop() for instance in self.instances))


def problems(instances: Iterable[Instance], budget_seconds: float) -> list[str]:
    """Return a message for each instance that is not ready, and for several instances that migrated."""
    instances = list(instances)
    found = [_unready(instance, budget_seconds) for instance in instances if not instance.report.ready]
    migrators = [instance.name for instance in instances if instance.migrated]
    if len(migrators) > 1:
        found.append(f"{len(migrators)} instances ran the migrations instead of one: {', '.join(migrators)}")
    return found


def _unready(instance: Instance, budget_seconds: float) -> str:
    state = instance.report.words
    if not instance.report.over:
        state = f"not ready after {budget_seconds:.0f} s: {state}"
    return "\n    ".join([f"{instance.name} {state}", *instance.last_words])
