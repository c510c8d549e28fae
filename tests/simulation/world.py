"""A fleet on a simulated server: the seed decides which instances start when and which faults happen.

`simulate(seed)` raises `Violation` if a promise is broken; the same seed does the same again.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from api.migrations.core.coordinator import Coordinator
from api.migrations.core.decision import Policy
from api.migrations.core.elected_session import ElectedSession
from api.migrations.core.protocols import MigrationSession
from api.migrations.core.schema import CodeRevisions, Observed, SchemaState, compare_with_build
from api.migrations.core.scope import Scope
from api.migrations.core.status import Phase, Tracker
from api.migrations.errors import HoldLost, MigrationError, SchemaRefused
from tests.simulation.database import Database, Violation
from tests.simulation.elected import Holds, LeasedElector
from tests.simulation.pooled import PooledSession
from tests.simulation.self_committing import SelfCommittingSession
from tests.simulation.session import Process, Release, Session
from tests.simulation.virtual import VirtualClock, run

FAULTS_UNTIL_SECONDS = 40.0
GRACE_SECONDS = 30.0
"""How many seconds an instance may take beyond its wait budget: it still waits for an answer then."""


@dataclass
class Instance:
    """One start of one process, with its outcome."""

    process: Process
    release: Release
    tracker: Tracker
    task: asyncio.Task[None] | None = None
    started: float = 0.0
    ended: float | None = None
    error: MigrationError | None = None


@dataclass
class World:
    """One schedule.

    `session` and `coordinator` are the classes under test, so that a test can replace them by a broken one.
    """

    seed: int
    session: type[Session] = Session
    coordinator: type[Coordinator] = Coordinator
    holds: Holds | None = None
    """The service that elects sessions; None without an election."""
    faults: Counter[str] = field(default_factory=Counter)
    instances: list[Instance] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self.database = Database()
        self.policy = Policy(wait_seconds=120, run_seconds=60, poll_seconds=1)
        self.releases = _releases(self.chance)

    async def play(self) -> None:
        """Start all instances, cause faults for a while, and check the outcomes."""
        self.database.max_connections = self.chance.choice([3, 10, 100])
        for number in range(self.chance.randint(2, 6)):
            await asyncio.sleep(self.chance.choice([0, 0, 0.01, 2]))
            self._start(f"api-{number}", self.chance.choice(self.releases))
        await self._break_things()
        for instance in self.instances:
            instance.process.running.set()
        await self._all_ended()
        self._judge()

    def _start(self, name: str, release: Release) -> None:
        process = Process(name)
        process.running.set()
        tracker = _Watched(self, release)
        instance = Instance(process, release, tracker, started=asyncio.get_running_loop().time())

        def sessions() -> MigrationSession:
            session = self.session(self.database, process, release, self.chance)
            if self.holds is None:
                return session
            session.elector = LeasedElector(self.holds, process, self.chance)
            return ElectedSession(session, session.elector)

        policy = replace(self.policy, release=release.name)
        coordinator = self.coordinator([Scope(sessions, release.code, policy)], tracker, policy, VirtualClock())
        instance.task = asyncio.create_task(self._live(instance, coordinator))
        # one violation is reported; asyncio would log the others
        instance.task.add_done_callback(lambda task: task.cancelled() or task.exception())
        self.instances.append(instance)

    async def _live(self, instance: Instance, coordinator: Coordinator) -> None:
        try:
            await coordinator.become_ready()
        except MigrationError as error:
            instance.error = error
        finally:
            instance.ended = asyncio.get_running_loop().time()

    async def _break_things(self) -> None:
        kinds: list[Callable[[Instance], Any]] = [self._kill, self._stop, self._cut, self._restart]
        kinds += [] if self.holds is None else [self._hush]
        for _ in range(self.chance.randint(0, 5)):
            await asyncio.sleep(self.chance.uniform(0, self.chance.choice([1, FAULTS_UNTIL_SECONDS / 5])))
            fault = self.chance.choice(kinds)
            self.faults[fault.__name__.strip("_")] += 1
            fault(self._victim())

    def _victim(self) -> Instance:
        owner = self.database.lock_owner
        holding = [i for i in self.instances if owner and i.process.name == owner.instance and not i.process.killed]
        # faults of the lock holder matter most
        return (
            self.chance.choice(holding or self.instances)
            if self.chance.random() < 0.7
            else self.chance.choice(self.instances)
        )

    def _kill(self, victim: Instance) -> None:
        victim.process.kill()
        assert victim.task is not None
        victim.task.cancel()
        # a supervisor restarts it
        again = sum(instance.process.name.rstrip("'") == victim.process.name.rstrip("'") for instance in self.instances)
        self._start(victim.process.name.rstrip("'") + "'" * again, victim.release)

    def _stop(self, victim: Instance) -> None:
        victim.process.running.clear()
        asyncio.get_running_loop().call_later(self.chance.uniform(0.1, 20), victim.process.running.set)

    def _cut(self, victim: Instance) -> None:
        for backend in victim.process.backends:
            backend.die()

    def _restart(self, _victim: Instance) -> None:
        self.database.up = False
        self.database.restart()
        asyncio.get_running_loop().call_later(self.chance.uniform(0.5, 5), setattr, self.database, "up", True)

    def _hush(self, _victim: Instance) -> None:
        assert self.holds is not None
        self.holds.silent = True
        asyncio.get_running_loop().call_later(self.chance.uniform(0.5, 20), setattr, self.holds, "silent", False)

    async def _all_ended(self) -> None:
        tasks = [i.task for i in self.instances if i.task is not None]
        done, late = await asyncio.wait(tasks, timeout=self.policy.wait_seconds + FAULTS_UNTIL_SECONDS + GRACE_SECONDS)
        for task in late:
            task.cancel()
        for task in done:
            if not task.cancelled() and task.exception() is not None:
                raise Violation(f"an instance crashed: {task.exception()!r}") from task.exception()
        if late:
            raise Violation(f"{len(late)} instance(s) never ended")

    def _judge(self) -> None:
        for instance in self.instances:
            if instance.process.killed:
                continue
            state = instance.tracker.status.phase
            if (state is Phase.READY) == (instance.error is not None):
                raise Violation(f"{instance.process.name} ended {state} with {instance.error!r}")
            if instance.error is not None and not self._excused(instance):
                raise Violation(f"{instance.process.name} failed without a reason: {instance.error}")

    def _excused(self, instance: Instance) -> bool:
        if self.holds is not None and isinstance(instance.error, HoldLost):
            return True
        # a release without the revision cannot know that it is idempotent
        if isinstance(instance.error, SchemaRefused) and self.database.begun_again:
            return True
        recorded = any(row.error is not None or row.outcome == "half_applied" for row in self.database.history)
        timed_out = "timed out after MIGRATION_WAIT_SECONDS" in str(instance.error)
        # each instance may be left waiting for a next try that comes later and later
        return (self.session.may_run_out_of_time and timed_out) or recorded or bool(self.database.losses)


class _Watched(Tracker):
    """A tracker that checks the schema at the moment of readiness."""

    def __init__(self, world: World, release: Release) -> None:
        super().__init__()
        self._world = world
        self._release = release

    def move(self, phase: Phase, **facts: Any) -> None:
        if phase is Phase.READY:
            observed = Observed(frozenset(self._world.database.revisions))
            lineage = {row.revision: row.parents for row in self._world.database.history}
            state = compare_with_build(observed, self._release.code, lineage).state
            if state not in {SchemaState.AT_HEAD, SchemaState.AHEAD}:
                raise Violation(f"ready with a schema that is {state}")
        super().move(phase, **facts)


def _releases(chance: random.Random) -> list[Release]:
    count = chance.randint(1, 4)
    chain = [f"r{number}" for number in range(1, count + 2)]
    seconds = {revision: chance.choice([0.001, 0.5, 5.0, 10.0]) for revision in chain}
    special = chance.random()
    commits_inside = frozenset(chance.sample(chain, 1)) if special < 0.15 else frozenset()
    fails = frozenset(chance.sample(chain, 1)) if special > 0.85 else frozenset()
    loses = frozenset(chance.sample(chain, 1)) if 0.7 < special < 0.8 else frozenset()
    idempotent = frozenset(chain[:: chance.choice([1, 2])]) if chance.random() < 0.5 else frozenset()
    old, new = _code(chain[:-1], idempotent), _code(chain, idempotent)
    both = [Release(name, code, seconds, commits_inside, fails, loses) for name, code in (("old", old), ("new", new))]
    return both if chance.random() < 0.3 else both[1:]


def _code(chain: list[str], idempotent: frozenset[str]) -> CodeRevisions:
    parents = {r: frozenset(chain[n - 1 : n]) if n else frozenset() for n, r in enumerate(chain)}
    return CodeRevisions(parents, frozenset(chain[-1:]), idempotent & parents.keys())


def simulate(seed: int, *, elected: bool | None = None, **classes: Any) -> World:
    """Play the schedule of `seed`.

    Every fourth is behind a transaction pooler, every fourth behind an elector, and every fourth on a database whose
    DDL commits by itself; half of these are behind an elector, too.

    Raises:
        Violation: a promise was broken.
    """
    random.seed(seed)  # the package's own jitter and backoff
    kind = PooledSession if seed % 4 == 3 else SelfCommittingSession if seed % 8 in {2, 5} else Session
    by_seed = seed % 4 == 1
    world = World(seed, **{"session": kind, **classes})
    world.holds = Holds() if (by_seed if elected is None else elected) else None
    run(world.play())
    return world
