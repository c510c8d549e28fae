"""The coordinator keeps its promises in a thousand schedules with crashes, pauses, lost connections and releases."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from api.migrations.core.coordinator import Coordinator
from api.migrations.core.decision import Action, AttemptHistory
from api.migrations.core.protocols import MigrationRequest, MigrationSession, ProgressListener
from api.migrations.core.schema import Observed, Schema, SchemaState
from tests.simulation.database import Backend, Row, Violation
from tests.simulation.self_committing import SelfCommittingSession
from tests.simulation.session import Session
from tests.simulation.world import World, simulate

SEEDS = 1000


def test_no_schedule_breaks_a_promise() -> None:
    """No schedule applies a revision twice, starts serving early, or leaves an instance without an outcome.

    A half-applied revision stops every instance, unless the release declares the revision idempotent. A revision that
    always ends its own session or crashes the server does so at most twice in one run.
    """
    faults: Counter[str] = Counter()
    half_applied = begun_again = lost = lost_again = 0
    for seed in range(SEEDS):
        try:
            world = simulate(seed)
        except Violation as violation:
            pytest.fail(f"seed {seed}: {violation}")
        faults += world.faults
        half_applied += bool(world.database.half_applied)
        begun_again += bool(world.database.begun_again)
        lost += bool(world.database.losses)
        lost_again += 2 in world.database.losses.values()
    assert min(faults[kind] for kind in ("kill", "stop", "cut", "restart")) > SEEDS / 10
    assert min(half_applied, begun_again, lost, lost_again, faults["hush"]) > SEEDS / 40


def test_a_seed_replays_exactly() -> None:
    """The same seed gives the same faults, the same history and the same outcomes."""

    def ending(world: World) -> object:
        return world.faults, world.database.history, [(i.ended, str(i.error)) for i in world.instances]

    assert ending(simulate(11)) == ending(simulate(11))


class _NoSecondLook(Coordinator):
    """A bug: the schema that was read before the lock was acquired is used under the lock."""

    async def _migrate_if_needed(self, session: MigrationSession) -> tuple[Schema, AttemptHistory, Action]:
        await self._migrate(session, MigrationRequest("upgrade", "head"))
        schema = await self._verify()
        await session.unlock()
        return schema, AttemptHistory(), Action.SERVE


class _LockBeside(Session):
    """A bug: one connection holds the lock, and another one runs the revisions."""

    beside: Backend | None = None

    def _lock_backend(self, backend: Backend) -> Backend:
        if self.beside is None:
            self.beside = self._connect()
        return self.beside

    async def close(self) -> None:
        await super().close()
        if self.beside is not None:
            self.beside.client_gone()


class _NeverVerified(Coordinator):
    """A bug: the schema is not verified after Alembic reports success."""

    async def _verify(self) -> Schema:
        return Schema(SchemaState.AT_HEAD)


class _AppliesNothing(Session):
    """Alembic on a connection that is already in a transaction: it reports success and applies nothing."""

    async def run(self, request: MigrationRequest, listener: ProgressListener) -> None:
        if self.chance.random() > 0.1:
            await super().run(request, listener)


class _OnlyElected(Session):
    """A bug: the elected instance migrates without checking or acquiring the database's lock."""

    async def lock_is_held(self) -> bool:
        return False

    async def try_lock(self) -> bool:
        self.database.lock_owner = await self._query()
        return True


class _ForgetsLosses(Session):
    """A bug: a lost connection is not attributed to the revision that was running."""

    @contextmanager
    def _running(self, revision: str) -> Iterator[None]:
        yield


class _HidesHalfApplied(SelfCommittingSession):
    """A bug: only the version table is read."""

    async def observe(self) -> Observed:
        return Observed((await super().observe()).revisions)


class _MarksTooLate(SelfCommittingSession):
    """A bug: the half-applied mark is written at the end of the revision, after its DDL has committed."""

    def _commit_a_part(self, row: Row) -> None:
        self.database.half_applied.add(row.revision)


def _first_violation(**classes: Any) -> Violation | None:
    # 260 is the first seed that finds the rarest of the bugs
    for seed in (*range(256, SEEDS), *range(256)):
        try:
            simulate(seed, **classes)
        except Violation as violation:
            return violation
    return None


@pytest.mark.parametrize(
    ("classes", "found"),
    [
        ({"coordinator": _NoSecondLook, "session": Session}, "applied twice"),
        ({"session": _LockBeside}, " while "),
        ({"session": _OnlyElected, "elected": True}, " while "),
        ({"session": _ForgetsLosses}, "had lost its session twice"),
        ({"session": _HidesHalfApplied}, "half applied, and"),
        ({"session": _MarksTooLate}, "half applied, and"),
        ({"coordinator": _NeverVerified, "session": _AppliesNothing}, "ready with a schema that is"),
    ],
)
def test_the_simulation_finds_each_of_seven_bugs(classes: dict[str, Any], found: str) -> None:
    """Each of seven typical bugs breaks a promise within the schedules of one test run."""
    violation = _first_violation(**classes)
    assert violation is not None
    assert found in str(violation)


def test_an_alembic_that_applied_nothing_does_not_make_an_instance_ready() -> None:
    """Alembic reports success and applies nothing: the instance fails instead of becoming ready."""
    found = _first_violation(session=_AppliesNothing)
    assert found is not None
    assert "Alembic reported success" in str(found)
