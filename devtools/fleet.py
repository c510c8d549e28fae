"""All instances of `./dev up`: starts, watches and stops them together, and reports problems."""

import asyncio
import re
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from devtools.instance import Instance

LOOK_SECONDS = 0.1
PLACE = re.compile(r"\bat (\S+\.py):(\d+)")
"""Where a revision failed, in its error."""


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
        while True:
            await asyncio.gather(*(instance.look() for instance in self.instances))
            show(self.instances)
            if all(instance.report.over for instance in self.instances) or time.monotonic() > deadline:
                return
            await asyncio.sleep(LOOK_SECONDS)

    async def serve(self, lost: Callable[[Instance], None]) -> None:
        """Return when every process has exited; call `lost` for each that exits."""
        running = [instance for instance in self.instances if instance.report.phase != "exited"]
        while running:
            await asyncio.gather(*(instance.look() for instance in running))
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
    failed = [instance for instance in instances if instance.report.error]
    found = _failures(failed)
    found += [_unready(one, budget_seconds) for one in instances if not one.report.ready and one not in failed]
    migrators = [instance.name for instance in instances if instance.migrated]
    if len(migrators) > 1:
        found.append(f"{len(migrators)} instances ran the migrations instead of one: {', '.join(migrators)}")
    return found


def _failures(failed: Sequence[Instance]) -> list[str]:
    """Return each error once: an instance that waited has the error of the one that migrated, and words after it."""
    causes: dict[str, list[str]] = {}
    for instance in sorted(failed, key=lambda one: len(one.report.error or "")):
        error = instance.report.error or ""
        cause = next((known for known in causes if error.startswith(known)), error)
        causes.setdefault(cause, []).append(instance.name)
    return [f"{names[0]} failed: {cause}{_sharing(names[1:])}" for cause, names in causes.items()]


def _sharing(names: Sequence[str]) -> str:
    return f"\n    the same error on {listed(names)}" if names else ""


def way_out(instances: Iterable[Instance]) -> list[str]:
    """Return what to do about a revision that failed; other errors say it themselves."""
    errors = [instance.report.error or "" for instance in instances]
    places = [place for error in errors if (place := PLACE.search(error))]
    if not places or any("To fix:" in error for error in errors):
        return []
    file, line = places[0].groups()
    return [f"To fix: correct line {line} of {file} and run ./dev up again; what is applied stays."]


def listed(names: Sequence[str]) -> str:
    """Return the names as a list in words."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _unready(instance: Instance, budget_seconds: float) -> str:
    state = instance.report.words
    if not instance.report.over:
        state = f"not ready after {budget_seconds:.0f} s: {state}"
    return "\n    ".join([f"{instance.name} {state}", *instance.last_words])
