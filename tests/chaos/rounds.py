"""One round: a fresh database, a fleet, a few faults, and what the database says afterwards."""

from __future__ import annotations

import random
import tempfile
import time
from collections import Counter
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from tests.acceptance.evidence import applied, invalid_indexes, marks, running, versions
from tests.acceptance.fleet import Instance, fleet
from tests.acceptance.project import concurrent_index, head, make_history, quick, revisions, slow
from tests.chaos.faults import FAULTS, Scene
from tests.servers import Server
from tests.waiting import wait_until

INSTANCES = 3
RECOVERY_SECONDS = 90.0


@dataclass
class Verdict:
    """What a round has shown; every list but `faults` should be empty."""

    faults: Counter[str] = field(default_factory=Counter)
    twice: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    invalid: list[str] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)
    recovery_seconds: float = 0.0

    @property
    def good(self) -> bool:
        """Whether every promise was kept."""
        return not (self.twice or self.lost or self.invalid or self.stuck)


def play(server: Server, name: str, chance: random.Random) -> Verdict:
    """Play one round on `server` in a database called `name`."""
    verdict = Verdict()
    with ExitStack() as stack:
        url = stack.enter_context(server.database(name))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="chaos-")))
        ini = make_history(folder, slow("slow1", 1.5), concurrent_index("built"), quick(), slow("slow2", 1.5))
        instances = list(stack.enter_context(_fleet(INSTANCES, url, ini)))

        def start_another() -> None:
            instances.extend(stack.enter_context(_fleet(1, url, ini, first=len(instances) + 1)))

        scene = Scene(server, url, instances, start_another)
        for fault in chance.choices(FAULTS, k=chance.randint(1, 3)):
            _until_somebody_migrates(scene)
            time.sleep(chance.uniform(0, 1.5))
            fault(scene)
            verdict.faults[fault.__name__] += 1
        began = time.monotonic()
        _recover(scene, verdict)
        verdict.recovery_seconds = time.monotonic() - began
        _ask(url, ini, verdict)
        for timer in scene.timers:
            timer.join()
    return verdict


def _fleet(n: int, url: str, ini: Path, first: int = 1) -> AbstractContextManager[list[Instance]]:
    # the idle limit is shorter than a stop lasts, so that the server ends the session of whoever was stopped
    return fleet(
        n,
        url,
        ini=ini,
        first=first,
        MIGRATION_IDLE_SECONDS="2",
        MIGRATION_WAIT_SECONDS="120",
        MIGRATION_RUN_SECONDS="60",
    )


def _until_somebody_migrates(scene: Scene) -> None:
    # or until it is all over, in which case the fault hits a fleet that serves
    wait_until(
        lambda: bool(running(scene.url)) or all(i.ready() for i in _living(scene)),
        "somebody migrates",
        seconds=RECOVERY_SECONDS,
    )


def _living(scene: Scene) -> list[Instance]:
    return [i for i in scene.instances if i.process.poll() is None]


def _recover(scene: Scene, verdict: Verdict) -> None:
    try:
        wait_until(lambda: all(i.ready() for i in _living(scene)), "all ready", seconds=RECOVERY_SECONDS)
    except AssertionError:
        verdict.stuck += [f"{i.name}: {i.health().get('message')}" for i in _living(scene) if not i.ready()]


def _ask(url: str, ini: Path, verdict: Verdict) -> None:
    done = Counter(applied(url))
    verdict.twice = [r for r, times in (done + Counter(marks(url))).items() if done[r] > 1 or times > 2]
    verdict.lost = [r for r in revisions(ini) if not done[r]] + ([] if versions(url) == [head(ini)] else ["head"])
    verdict.invalid = invalid_indexes(url)
