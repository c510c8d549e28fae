"""Thousands of schedules of a fleet with crashes, pauses, lost connections and racing releases."""

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

SEEDS = 2000


def test_no_schedule_breaks_a_promise() -> None:
    """Whatever the seed, nothing runs twice, nobody is ready early, and everybody ends with a schema or a reason.

    What is half applied stops everybody, unless the release says that it may be begun again. A revision that ends its
    own session or crashes the server every time does so at most twice by one order.
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
    """The same seed gives the same faults, the same history and the same ending."""

    def ending(world: World) -> object:
        return world.faults, world.database.history, [(i.ended, str(i.error)) for i in world.instances]

    assert ending(simulate(11)) == ending(simulate(11))


class _NoSecondLook(Coordinator):
    """The bug: what was read before the lock is believed under the lock."""

    async def _migrate_if_needed(self, session: MigrationSession) -> tuple[Schema, AttemptHistory, Action]:
        await self._migrate(session, MigrationRequest("upgrade", "head"))
        schema = await self._verify()
        await session.unlock()
        return schema, AttemptHistory(), Action.SERVE


class _LockBeside(Session):
    """The bug: a second connection holds the lock, and the revisions run on this one."""

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
    """The bug: Alembic's word is taken for the schema."""

    async def _verify(self) -> Schema:
        return Schema(SchemaState.AT_HEAD)


class _AppliesNothing(Session):
    """Alembic on a connection that is in a transaction already: success, and nothing applied."""

    async def run(self, request: MigrationRequest, listener: ProgressListener) -> None:
        if self.chance.random() > 0.1:
            await super().run(request, listener)


class _OnlyElected(Session):
    """The bug: who is elected migrates, and the database's own lock is neither looked at nor asked for."""

    async def lock_is_held(self) -> bool:
        return False

    async def try_lock(self) -> bool:
        self.database.lock_owner = await self._query()
        return True


class _ForgetsLosses(Session):
    """The bug: a lost session is only a lost session, whatever ran in it."""

    @contextmanager
    def _running(self, revision: str) -> Iterator[None]:
        yield


class _HidesHalfApplied(SelfCommittingSession):
    """The bug: only the version table is looked at."""

    async def observe(self) -> Observed:
        return Observed((await super().observe()).revisions)


class _MarksTooLate(SelfCommittingSession):
    """The bug: the mark is left to the revision's end, and DDL commits without it."""

    def _commit_a_part(self, row: Row) -> None:
        self.database.half_applied.add(row.revision)


def _first_violation(**classes: Any) -> Violation | None:
    for seed in range(SEEDS):
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
def test_the_simulation_bites(classes: dict[str, Any], found: str) -> None:
    """Bugs of the kinds that people ship are found, each within the schedules of one test run."""
    violation = _first_violation(**classes)
    assert violation is not None
    assert found in str(violation)


def test_an_alembic_that_applied_nothing_ends_in_an_error() -> None:
    """With the verification in place the same fault never ends in readiness."""
    found = _first_violation(session=_AppliesNothing)
    assert found is not None
    assert "Alembic reported success" in str(found)
