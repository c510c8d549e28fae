"""What an instance logs while it waits, and how often, with a clock that moves only during a sleep."""

import re

import pytest

from api.migrations.core.decision import Policy
from api.migrations.core.schema import CodeRevisions
from api.migrations.core.status import Blocker, Holder, LockStatus, Member
from api.migrations.errors import DatabaseUnreachable, NoConnectionLeft, WaitTimeout
from tests.support.fakes import Database, FakeClock, FakeSession, Instance

CODE = CodeRevisions({"a": frozenset()}, frozenset("a"))
FIRST, SECOND = Holder("first", 11), Holder("second", 22)
POLICY = Policy(wait_seconds=35, run_seconds=35)
TAKEN_OVER_SECONDS = 13.0
"""After the second line, and early enough for the waiter to read the lock status again before the third."""


@pytest.fixture
def database() -> Database:
    """Return an empty database."""
    return Database(CODE, FakeClock())


def lines(caplog: pytest.LogCaptureFixture, event: str) -> list[str]:
    """Return the log lines of that event, oldest first."""
    return [record.getMessage() for record in caplog.records if getattr(record, "event", None) == event]


@pytest.mark.parametrize("may_migrate", [True, False], ids=["tries too", "only verifies"])
async def test_a_waiter_logs_the_lock_holder_every_ten_seconds(
    database: Database, caplog: pytest.LogCaptureFixture, may_migrate: bool
) -> None:
    """A waiter logs the lock holder at once and then every 10 s, and names the new holder after a change."""
    caplog.set_level("INFO")
    database.holder = FIRST
    clock = database.clock
    began, sleep = clock.seconds, clock.sleep

    async def taken_over(seconds: float) -> None:
        await sleep(seconds)
        if clock.seconds - began > TAKEN_OVER_SECONDS:
            database.holder = SECOND

    clock.sleep = taken_over  # type: ignore[method-assign]
    policy = Policy(wait_seconds=35, run_seconds=35, may_migrate=may_migrate)
    with pytest.raises(WaitTimeout, match=r"second \(pid 22\) holds the lock"):
        await Instance(database, policy=policy).coordinator.become_ready()
    said = [
        re.search(r"; (\w+) \(pid \d+\) holds the lock.*; waited (\d+) s", line) for line in lines(caplog, "waiting")
    ]
    assert [match and match[1] for match in said] == ["first", "first", "second", "second"]
    # a pause between two reads adds up to 1.5 s
    waited = [int(match[2]) for match in said if match]
    assert all(10 * number <= seconds <= 12 * number for number, seconds in enumerate(waited)), waited


async def test_a_waiter_logs_an_unreachable_database_every_ten_seconds(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """A waiter that cannot connect logs it every 10 s, although it retries more often."""
    caplog.set_level("INFO")
    database.refused_connections = 1_000
    with pytest.raises(DatabaseUnreachable):
        await Instance(database, policy=POLICY).coordinator.become_ready()
    said = lines(caplog, "database_unreachable")
    assert 3 <= len(said) <= 4 < len(database.clock.slept)
    assert all("the server is starting up" in line for line in said)


class Blocked(FakeSession):
    """A session that sees the lock holder blocked."""

    async def lock_status(self) -> LockStatus:
        """Return the lock holder and the session that blocks it."""
        return LockStatus(FIRST, blocked_by=(Blocker(77, "lunch"),))


async def test_a_waiter_that_was_blocked_until_its_end_does_not_ask_for_more_time(database: Database) -> None:
    """A waiter times out while a session blocks the lock holder: the message says to terminate that session."""
    database.holder = FIRST
    database.session = lambda instance: Blocked(database, instance)  # type: ignore[method-assign]
    with pytest.raises(WaitTimeout, match="To fix: terminate the session that blocks the migration") as gave_up:
        await Instance(database, policy=POLICY).coordinator.become_ready()
    assert "raise MIGRATION_WAIT_SECONDS" not in str(gave_up.value)


async def test_a_waiter_without_a_free_connection_says_how_to_free_one(database: Database) -> None:
    """A waiter times out because the server has no free connection: the message says how to free one."""

    class Refused(FakeSession):
        async def open(self) -> None:
            raise NoConnectionLeft("no connection while connecting: the server has no free connection")

    database.session = lambda instance: Refused(database, instance)  # type: ignore[method-assign]
    instance = Instance(database, policy=POLICY)
    await instance.fails(NoConnectionLeft, "To fix: terminate sessions that are idle, as a superuser")
    assert instance.tracker.status.error_class is NoConnectionLeft


@pytest.mark.parametrize(("waiters", "most_tries"), [(1, 80), (50, 24)])
async def test_a_listening_waiter_only_tries_the_lock_between_two_reads(
    database: Database, waiters: int, most_tries: int
) -> None:
    """No notification arrives: a waiter reads the schema every 5 s, and 50 waiters do all that less often each."""
    database.holder, database.listening = FIRST, True
    database.fleet = tuple(Member(f"i{number}", "waiting", number, 0.0) for number in range(waiters))
    with pytest.raises(WaitTimeout):
        await Instance(database, policy=POLICY).coordinator.become_ready()
    # a pause of up to 1.5 s, or of 5 s, comes between two reads
    assert 2 <= database.reads <= 35 / 5 + 3
    assert database.reads <= len(database.tries) <= most_tries
