"""An attempt that lacks a table lock is made again, as often as it takes."""

import pytest

from api.migrations.core.protocols import MigrationRequest
from api.migrations.errors import LockContended, RevisionFailed
from api.migrations.execution import lock_retry as paces
from api.migrations.execution.contention import retry_while_contended
from api.migrations.execution.limits import Limits
from api.migrations.execution.lock_retry import LockRetrySchedule

HEAD = MigrationRequest("upgrade", "head")


class Attempts:
    """Lacks its lock a number of times; `heard` is what was told of it."""

    def __init__(self, fails: int, applied: tuple[str, ...] = ()) -> None:
        self.made = 0
        self.heard: list[tuple[str, int, float]] = []
        self.rested: list[tuple[str, int, float]] = []
        self._fails = fails
        self._applied = applied

    async def __call__(self) -> None:
        """One attempt."""
        self.made += 1
        if self.made <= self._fails:
            raise LockContended("r2 lacked its lock", "r2", self._applied)

    def contended(self, revision: str, number: int, seconds: float) -> None:
        """What a report hears."""
        self.heard.append((revision, number, seconds))

    async def rest(self, revision: str, number: int, seconds: float) -> None:
        """What keeps the pause."""
        self.rested.append((revision, number, seconds))


@pytest.fixture
def pace(monkeypatch: pytest.MonkeyPatch) -> LockRetrySchedule:
    """Without pauses worth the name."""
    monkeypatch.setattr(paces.LockTimeouts, "longest_delay_seconds", 0.06)
    return LockRetrySchedule(lambda revision: Limits(idle_seconds=0.12))


async def test_it_is_made_until_it_gets_its_lock(pace: LockRetrySchedule) -> None:
    """Each failure is told, with its number and the pause that follows."""
    attempts = Attempts(3)
    await retry_while_contended(attempts, HEAD, pace, attempts.contended, attempts.rest)
    assert attempts.made == 4
    assert [(revision, number) for revision, number, _ in attempts.heard] == [("r2", 1), ("r2", 2), ("r2", 3)]
    assert all(0.05 <= seconds <= 0.06 for _, _, seconds in attempts.heard)
    assert attempts.rested == attempts.heard


async def test_what_counts_from_where_it_is_is_not_repeated(pace: LockRetrySchedule) -> None:
    """`+2` again, after the first of the two, would be three."""
    attempts = Attempts(1, ("r1",))
    with pytest.raises(RevisionFailed, match=r"committed r1, .* target \+2 .*To fix: name") as raised:
        await retry_while_contended(
            attempts, MigrationRequest("upgrade", "+2"), pace, attempts.contended, attempts.rest
        )
    assert (raised.value.revision, raised.value.applied, attempts.made) == ("r2", ("r1",), 1)


async def test_a_relative_order_that_has_done_nothing_is(pace: LockRetrySchedule) -> None:
    """Nor is one repeated that behind a pooler took everything back."""
    attempts = Attempts(1)
    await retry_while_contended(attempts, MigrationRequest("downgrade", "-1"), pace, attempts.contended, attempts.rest)
    assert attempts.made == 2


async def test_where_the_lock_is_gone_somebody_else_may_try(pace: LockRetrySchedule) -> None:
    """The error says for how long to leave the table alone."""
    attempts = Attempts(1)
    with pytest.raises(LockContended) as raised:
        await retry_while_contended(attempts, HEAD, pace, attempts.contended, attempts.rest, again=False)
    assert raised.value.pause_seconds == attempts.heard[0][2] > 0
    assert attempts.rested == []
