"""What every database's own lock must do, seen through the `MigrationSession` that acquires it.

A test module subclasses `LockContract`, or `SessionLockContract` where the lock outlives a transaction, and has a
fixture `arena`:

    class TestNamedLock(SessionLockContract):
        \"\"\"`GET_LOCK` on MariaDB.\"\"\"

        @pytest.fixture
        def arena(self, mariadb_url: str) -> Arena: ...
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from signal import SIGKILL
from typing import Any

import pytest

from api.migrations.core.protocols import MigrationRequest, OperatorSession
from api.migrations.core.reporter import ProgressReporter
from api.migrations.core.status import Tracker
from api.migrations.errors import HoldLost
from tests.support.fakes import FOREVER_SECONDS, assembled, tree
from tests.support.waiting import until, wait_until
from tests.support.warm import Process

RIVALS = 10
ROOT = Path(__file__).resolve().parents[2]
GROUND = 'op.execute("CREATE TABLE t (n integer)")'
HEAD = MigrationRequest("upgrade", "head")


@dataclass(frozen=True)
class Arena:
    """Where sessions compete, empty at the start of each test.

    Attributes:
        url: the database.
        other_url: another database, on the same server if there is one.
        lose: makes a session that holds the lock lose it and stay open.
        losing: body of a revision that does the same to the session that runs it.
        names_holder: whether the lock names its holder before that has begun a revision.
    """

    url: str
    other_url: str
    lose: Callable[[Any], Awaitable[None]]
    losing: str
    names_holder: bool = True


class Sessions:
    """Makes open sessions, and closes all of them at the end of the test."""

    def __init__(self, arena: Arena, ini: Path) -> None:
        self.arena = arena
        self.ini = ini
        self._made: list[OperatorSession] = []

    async def __call__(self, instance: str, url: str | None = None, **settings: Any) -> OperatorSession:
        """Open a session of that instance."""
        settings = {"strategy": "advisory_lock", **settings}
        session = assembled(url or self.arena.url, self.ini, instance, **settings).session()
        self._made.append(session)
        await session.open()
        return session

    async def holder(self, instance: str = "first") -> OperatorSession:
        """Open a session that holds the lock."""
        session = await self(instance)
        assert await session.try_lock()
        return session

    async def close(self) -> None:
        """Close all sessions."""
        for session in self._made:
            await session.close()


@contextmanager
def rivals(sessions: Sessions, folder: Path, n: int, rounds: int) -> Iterator[list[Process]]:
    """Run processes that compete for the lock; none outlives the block."""
    words = [[sessions.arena.url, str(sessions.ini), f"rival-{i}", str(folder), str(rounds)] for i in range(n)]
    started = [Process([sys.executable, "-m", "tests.support.rival", *each], cwd=ROOT) for each in words]
    try:
        yield started
    finally:
        for process in started:
            process.kill()
            process.wait()


class LockContract:
    """Tests that every lock must pass."""

    @pytest.fixture
    async def sessions(self, arena: Arena, tmp_path: Path) -> AsyncIterator[Sessions]:
        """Yield a function that opens sessions of the arena; their history creates a table and then loses the lock."""
        insert = 'op.execute("INSERT INTO t VALUES (1)")\n'
        made = Sessions(arena, tree(tmp_path / "history", GROUND, insert + arena.losing))
        yield made
        await made.close()

    async def test_one_of_many_sessions_acquires_the_lock(self, sessions: Sessions) -> None:
        """Ten sessions try the lock at the same moment: one acquires it, and the others fail without waiting."""
        all_of_them = [await sessions(f"rival-{number}") for number in range(RIVALS)]
        tries = asyncio.gather(*(session.try_lock() for session in all_of_them))
        won = await asyncio.wait_for(tries, FOREVER_SECONDS)
        assert sorted(won) == [False] * (RIVALS - 1) + [True]

    async def test_unlock_frees_the_lock_at_once(self, sessions: Sessions) -> None:
        """The holder releases the lock: the next try of another session acquires it, and the first one cannot."""
        first, second = await sessions.holder(), await sessions("second")
        assert not await second.try_lock()
        await first.unlock()
        assert await second.try_lock()
        assert not await first.try_lock()

    async def test_closing_a_session_frees_its_lock(self, sessions: Sessions) -> None:
        """The holder's session is closed, twice: another session acquires the lock."""
        first, second = await sessions.holder(), await sessions("second")
        await first.close()
        await first.close()
        await until(second.try_lock, "the lock of a closed session", seconds=FOREVER_SECONDS)

    async def test_a_session_can_acquire_the_lock_again(self, sessions: Sessions) -> None:
        """A session releases the lock, or is closed and opened again: it can acquire the lock again."""
        first = await sessions.holder()
        await first.unlock()
        assert await first.try_lock()
        await first.close()
        await first.open()
        await until(first.try_lock, "its own lock", seconds=FOREVER_SECONDS)

    async def test_the_death_of_a_process_frees_its_lock(self, sessions: Sessions, tmp_path: Path) -> None:
        """SIGKILL ends an idle process that holds the lock: another session acquires it."""
        second = await sessions("second")
        with rivals(sessions, tmp_path, 1, 0) as (process,):
            await asyncio.to_thread(wait_until, (tmp_path / "holds").exists, "a holder", seconds=FOREVER_SECONDS)
            assert not await second.try_lock()
            process.send_signal(SIGKILL)
            await until(second.try_lock, "the lock of a dead process", seconds=FOREVER_SECONDS)

    async def test_two_processes_never_hold_the_lock_at_once(self, sessions: Sessions, tmp_path: Path) -> None:
        """Three processes acquire and release the lock 30 times each: two never hold it at once."""
        with rivals(sessions, tmp_path, 3, 30) as processes:
            codes = await asyncio.gather(*(asyncio.to_thread(process.wait, 120) for process in processes))
        assert codes == [0, 0, 0]

    async def test_every_session_sees_the_lock_holder(self, sessions: Sessions) -> None:
        """Every session sees the holder, with its instance where the lock can tell, and none before and after."""
        second = await sessions("second")
        assert (await second.lock_status()).holder is None
        first = await sessions.holder("host:8000-17")
        seen = [(await session.lock_status()).holder for session in (first, second)]
        assert None not in seen
        assert len({holder.pid for holder in seen if holder}) == 1
        if sessions.arena.names_holder:
            assert [holder.instance for holder in seen if holder] == ["host:8000-17"] * 2
        await first.unlock()
        assert (await second.lock_status()).holder is None

    async def test_every_session_sees_whether_the_lock_is_held(self, sessions: Sessions) -> None:
        """`lock_is_held` tells the holder and another session whether the lock is held, and acquires nothing."""
        first, second = await sessions("first"), await sessions("second")
        both = (first, second)
        assert [await session.lock_is_held() for session in both] == [False, False]
        assert await first.try_lock()
        assert [await session.lock_is_held() for session in both] == [True, True]
        await first.unlock()
        assert [await session.lock_is_held() for session in both] == [False, False]
        assert await second.try_lock()

    async def test_two_databases_do_not_share_a_lock(self, sessions: Sessions) -> None:
        """A session holds the lock of one database: a session on another database acquires its own."""
        await sessions.holder()
        other = await sessions("other", sessions.arena.other_url)
        assert (await other.lock_status()).holder is None
        assert await other.try_lock()

    async def test_two_names_do_not_share_a_lock(self, sessions: Sessions) -> None:
        """A session holds the lock: one with another lock name or version table acquires its own."""
        await sessions.holder()
        for settings in ({"lock_name": "another"}, {"version_table": "another"}):
            other = await sessions("other", **settings)
            assert await other.try_lock()


class SessionLockContract(LockContract):
    """Tests that every lock must pass that outlives a transaction."""

    async def test_a_holder_notices_a_lost_lock_when_it_unlocks(self, sessions: Sessions) -> None:
        """The holder has lost the lock: `unlock` raises HoldLost, because another session may have held it."""
        first = await sessions.holder()
        await sessions.arena.lose(first)
        with pytest.raises(HoldLost):
            await first.unlock()

    async def test_a_holder_notices_a_lost_lock_before_the_version_changes(self, sessions: Sessions) -> None:
        """A revision loses the lock: the run raises HoldLost, and only the revision before it stays applied."""
        first = await sessions.holder()
        with pytest.raises(HoldLost):
            await first.run(HEAD, ProgressReporter(Tracker()))
        await first.close()
        second = await sessions.holder("second")
        assert (await second.store.observe()).revisions == frozenset({"r1"})
        assert [run["outcome"] for run in await second.store.runs(2)] == ["running", "applied"]
