"""One round: a fresh database, a fleet, a few faults, and the checks of the database afterwards."""

from __future__ import annotations

import random
import tempfile
import threading
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from tests.chaos.faults import FAULTS, NETWORK_FAULTS, Fault
from tests.chaos.lab import Lab
from tests.chaos.scene import Scene
from tests.support.evidence import applied, history, invalid_indexes, marks, versions
from tests.support.pace import scaled
from tests.support.project import concurrent_index, head, make_history, quick, revisions, slow
from tests.support.waiting import wait_until

INSTANCES = 3
RECOVERY_SECONDS = scaled(90)
LONGEST_DELAY_SECONDS = 1.2


@dataclass
class Verdict:
    """The result of a round; every list should be empty."""

    faults: Counter[str] = field(default_factory=Counter)
    applied_twice: list[str] = field(default_factory=list)
    lost_revisions: list[str] = field(default_factory=list)
    invalid_indexes: list[str] = field(default_factory=list)
    stuck_instances: list[str] = field(default_factory=list)
    ready_before_the_schema: list[str] = field(default_factory=list)
    ended_by_themselves: list[str] = field(default_factory=list)
    started_again: int = 0
    """The instances that failed after two lost connections in one revision, and were replaced."""
    recovery_seconds: float = 0.0
    kept: Path | None = None

    @property
    def broken(self) -> dict[str, list[str]]:
        """The promises that were broken, with what broke them."""
        return {name: value for name, value in vars(self).items() if isinstance(value, list) and value}


PROMISES = [name for name, value in vars(Verdict()).items() if isinstance(value, list)]


def draw(lab: Lab, chance: random.Random) -> Sequence[Fault]:
    """Return one to three of the faults that are possible here."""
    possible = FAULTS + (NETWORK_FAULTS if lab.hosts else ())
    return chance.choices(possible, k=chance.randint(1, 3))


def play(lab: Lab, name: str, chance: random.Random, faults: Sequence[Fault]) -> Verdict:
    """Play one round in a database called `name`."""
    verdict = Verdict()
    with ExitStack() as stack:
        url = stack.enter_context(lab.server.database(name))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="chaos-")))
        ini = make_history(folder, slow("slow1", 1.2), concurrent_index("built"), quick(), slow("slow2", 1.2))
        scene = Scene(lab, url, ini, chance, stack)
        scene.start(INSTANCES)
        try:
            _break(scene, faults, verdict)
        except AssertionError as no_migration:
            verdict.stuck_instances.append(str(no_migration))
        finally:
            scene.calm()
        _recover(scene, verdict)
        _ask(scene, verdict)
        verdict.kept = scene.keep() if verdict.broken else None
    return verdict


def _break(scene: Scene, faults: Sequence[Fault], verdict: Verdict) -> None:
    for fault in faults:
        scene.until_an_instance_migrates(RECOVERY_SECONDS)
        # chance decides the moment: no condition exists to wait for
        threading.Event().wait(scene.chance.uniform(0, LONGEST_DELAY_SECONDS))
        fault(scene)
        verdict.faults[fault.__name__] += 1
        scene.calm_at = max(scene.calm_at, datetime.now(UTC))


def _recover(scene: Scene, verdict: Verdict) -> None:
    def recovered() -> bool:
        verdict.started_again += scene.start_again()
        return scene.all_ready() and not scene.lingering()

    # the verdict lists the instances that are late
    with suppress(AssertionError):
        wait_until(recovered, "all ready", seconds=RECOVERY_SECONDS)
    verdict.stuck_instances += [f"{i.name}: {i.health()}" for i in scene.living() if not i.ready()]
    verdict.stuck_instances += [f"{i.name} does not end" for i in scene.lingering()]
    verdict.ended_by_themselves += [repr(i) for i in scene.ended()]
    last = max((w.ready_at for w in scene.watches if w.ready_at), default=scene.calm_at)
    verdict.recovery_seconds = max(0.0, (last - scene.calm_at).total_seconds())


def _ask(scene: Scene, verdict: Verdict) -> None:
    url, ini = scene.url, scene.ini
    done = Counter(applied(url))
    verdict.applied_twice = [r for r, times in (done + Counter(marks(url))).items() if done[r] > 1 or times > 2]
    verdict.lost_revisions = [r for r in revisions(ini) if not done[r]]
    verdict.lost_revisions += [] if versions(url) == [head(ini)] else ["head"]
    verdict.invalid_indexes = invalid_indexes(url)
    there = [row["finished_at"] for row in history(url) if (row["revision"], row["outcome"]) == (head(ini), "applied")]
    early = [w.instance.name for w in scene.watches if w.ready_at and not any(at < w.ready_at for at in there)]
    verdict.ready_before_the_schema = early
