"""Hand-written stand-ins: a clock that moves only during a sleep, a database in memory, small Alembic trees.

The trees are real Alembic, and the integration tests run them on a real server.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from textwrap import dedent, indent
from typing import Any

import asyncpg
import pytest

from api.migrations.assembly import Assembly
from api.migrations.core.coordinator import Coordinator
from api.migrations.core.decision import Policy
from api.migrations.core.protocols import MigrationRequest, PastAttempt, ProgressListener
from api.migrations.core.schema import CodeRevisions, Observed
from api.migrations.core.scope import Scope
from api.migrations.core.status import Holder, LockStatus, Member, Phase, Tracker
from api.migrations.errors import DatabaseUnreachable, HoldLost, MigrationError, OldInstances
from api.migrations.settings import MigrationSettings
from tests.support import waiting
from tests.support.servers import fetch_sync

FOREVER_SECONDS = waiting.FOREVER_SECONDS
"""No operation takes this long: a wait of this length means a hang."""

STOP = "SELECT pg_advisory_lock(777)"
"""A revision executes this to be held by a `barrier`."""
STOPPED = """
    SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
THREE_LINES = "from api.migrations.environment import run_env\n\nrun_env()\n"


class FakeClock:
    """Time that passes only during a sleep."""

    def __init__(self) -> None:
        self.seconds = 1000.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        """Return the seconds since an arbitrary start."""
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        """Move the time and let the other tasks run."""
        self.slept.append(seconds)
        self.seconds += seconds
        await asyncio.sleep(0)


class Database:
    """What all sessions of the fleet share: the version table, the history and the lock."""

    def __init__(self, code: CodeRevisions, clock: FakeClock, revisions: frozenset[str] = frozenset()) -> None:
        self.code = code
        self.clock = clock
        self.observed = Observed(revisions)
        self.lineage: dict[str, frozenset[str]] = {}
        self.contracts: dict[str, str] = {}
        self.failures: list[tuple[float, PastAttempt]] = []
        self.holder: Holder | None = None
        self.fleet: tuple[Member, ...] = ()
        self.refused_connections = 0
        self.old_instances: OldInstances | None = None
        self.listening = False
        """Whether sessions listen for a notification; none arrives."""
        self.reads = 0
        self.tries: list[str] = []
        self.runs: list[str] = []
        self.work: Callable[[FakeSession, MigrationRequest, ProgressListener], Awaitable[None]] = apply_all

    def session(self, instance: str) -> "FakeSession":
        """Make a session of that instance, not yet connected."""
        return FakeSession(self, instance)


class FakeSession:
    """A `MigrationSession` on a `Database`; like the real one it releases the lock when it is closed."""

    def __init__(self, database: Database, instance: str) -> None:
        self.database = database
        self.instance = instance
        self.is_open = False

    @property
    def store(self) -> "FakeSession":
        """The tables: the session is its own store."""
        return self

    async def open(self) -> None:
        """Connect, unless the server refuses."""
        if self.is_open:
            return
        if self.database.refused_connections > 0:
            self.database.refused_connections -= 1
            raise DatabaseUnreachable("no connection while connecting: the server is starting up")
        self.is_open = True

    async def observe(self) -> Observed:
        """Return the version table and what is half applied."""
        assert self.is_open
        self.database.reads += 1
        return self.database.observed

    async def lineage(self) -> Mapping[str, frozenset[str]]:
        """Return the parents of revisions, from the history."""
        return self.database.lineage

    async def contracts(self) -> Mapping[str, str]:
        """Return what contracts require, from the history."""
        return self.database.contracts

    async def attempts(self, pending: Sequence[str], directions: Sequence[str] = ()) -> list[PastAttempt]:
        """Return the failed attempts at any of `pending`, newest first."""
        clock, failures = self.database.clock, reversed(self.database.failures)
        return [replace(p, age_seconds=clock.seconds - at) for at, p in failures if p.revision in {*pending, "?"}]

    async def check_ids(self, request: MigrationRequest, revisions: frozenset[str]) -> None:
        """Accept every id."""

    async def try_lock(self) -> bool:
        """Acquire the lock if it is free."""
        self.database.tries.append(self.instance)
        if self.database.holder is None:
            self.database.holder = Holder(self.instance, id(self))
        return self._holds

    async def lock_is_held(self) -> bool:
        """Return whether the database has a lock holder."""
        return self.database.holder is not None

    async def old_instances(self, request: MigrationRequest) -> OldInstances | None:
        """Return the database's answer."""
        return self.database.old_instances

    async def back_up_if_requested(self, request: MigrationRequest) -> None:
        """Do nothing: there is nothing to lose."""

    async def run(self, request: MigrationRequest, listener: ProgressListener) -> None:
        """Do the database's `work`, which only the lock holder may."""
        assert self._holds
        self.database.runs.append(self.instance)
        await self.database.work(self, request, listener)

    async def record_timeout(self, error: str) -> None:
        """Do nothing: a fake run has no row of its own."""

    async def record_failure(
        self, error: str, revision: str | None, age_seconds: float, error_class: str = "TimeoutError"
    ) -> None:
        """Record a failure of this instance, unless the revision was applied."""
        if revision is None or revision in self.database.code.pending(self.database.observed.revisions):
            self.failed("?", error)

    async def unlock(self) -> None:
        """Release the lock."""
        if not self._holds:
            raise HoldLost("the lock was already released before unlock")
        self.database.holder = None

    async def lock_status(self) -> LockStatus:
        """Return the lock holder."""
        return LockStatus(self.database.holder, fleet=self.database.fleet)

    async def pause(self, seconds: float, listening_seconds: float) -> bool:
        """Wait; there is no notification."""
        listening = self.database.listening
        await self.database.clock.sleep(listening_seconds if listening else seconds)
        return not listening

    async def close(self) -> None:
        """Close the session and release its lock."""
        if self._holds:
            self.database.holder = None
        self.is_open = False

    def failed(self, revision: str, error: str, release: str | None = None) -> None:
        """Write a failed attempt into the history."""
        past = PastAttempt(revision, "failed", self.instance, release, error, 0.0)
        self.database.failures.append((self.database.clock.seconds, past))

    @property
    def _holds(self) -> bool:
        return self.database.holder == Holder(self.instance, id(self))


async def apply_all(session: FakeSession, request: MigrationRequest, listener: ProgressListener) -> None:
    """Run as usual: every pending revision takes a second and becomes the version."""
    database = session.database
    pending = database.code.pending(database.observed.revisions)
    listener.planned(pending, "Applied")
    for revision in pending:
        listener.started(revision)
        await database.clock.sleep(1.0)
        database.observed = Observed(database.observed.revisions - database.code.parents[revision] | {revision})
        listener.finished(revision)


class Instance:
    """One coordinator with its tracker."""

    def __init__(self, database: Database, name: str = "one", policy: Policy | None = None) -> None:
        self.tracker = Tracker(instance=name)
        policy = policy or Policy()
        scope = Scope(lambda: database.session(name), database.code, policy)
        self.coordinator = Coordinator([scope], self.tracker, policy, database.clock)

    @property
    def phase(self) -> Phase:
        """The phase that the tracker shows."""
        return self.tracker.status.phase

    async def fails(self, error: type[MigrationError], *words: str) -> None:
        """Assert that it does not become ready, and that error and status say the same words."""
        with pytest.raises(error) as raised:
            await self.coordinator.become_ready()
        assert type(raised.value) is error
        assert [word for word in words if word not in str(raised.value)] == []
        assert (self.phase, self.tracker.status.message) == (Phase.FAILED, raised.value.message)


def revision(
    folder: Path, name: str, upgrade: str, *, after: str | None = None, extra: str = "", down: str = ""
) -> None:
    """Write one revision file; `upgrade` and `down` are the bodies of its functions."""
    text = f'"""Do {name}."""\n\nimport sqlalchemy as sa\nfrom alembic import op\n\n'
    text += f"revision = {name!r}\ndown_revision = {after!r}\n{extra}\n\n\ndef upgrade():\n"
    text += indent(dedent(upgrade), "    ") + "\n\n\ndef downgrade():\n" + indent(dedent(down) or "pass", "    ") + "\n"
    (folder / "versions").mkdir(parents=True, exist_ok=True)
    (folder / "versions" / f"{name}.py").write_text(text)


def tree(folder: Path, *upgrades: str, env: str = THREE_LINES) -> Path:
    """Write an Alembic tree of revisions r1, r2, … with the given bodies; return its alembic.ini."""
    (folder / "versions").mkdir(parents=True, exist_ok=True)
    (folder / "env.py").write_text(env)
    ini = folder / "alembic.ini"
    ini.write_text("[alembic]\nscript_location = %(here)s\npath_separator = os\n")
    for number, body in enumerate(upgrades, start=1):
        revision(folder, f"r{number}", body, after=f"r{number - 1}" if number > 1 else None)
    return ini


def assembled(url: str, ini: Path, instance: str = "one", **settings: Any) -> Assembly:
    """Build an instance's assembly from its settings, without the environment."""
    # a revision at a barrier waits for a lock, and must not time out there
    values = {
        "lock_timeout_seconds": 0,
        # many tests create tables of their own before the first revision
        "baseline": "base",
        "database_url": url,
        "alembic_config": str(ini),
        "instance": instance,
        **settings,
    }
    return Assembly.build(MigrationSettings.load(**values))


async def eventually(url: str, sql: str, what: str) -> None:
    """Wait until the first value of `sql`, executed on connections of its own, is true."""
    await asyncio.to_thread(waiting.wait_until, lambda: bool(fetch_sync(url, sql)[0][0]), what)


@asynccontextmanager
async def barrier(url: str) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Hold every session that executes STOP; yield a function that waits until one is held."""
    connection = await asyncpg.connect(url)
    await connection.execute(STOP)
    try:
        yield lambda: eventually(url, STOPPED, "a revision at the barrier")
    finally:
        await connection.close()


@asynccontextmanager
async def in_the_way(url: str, sql: str, name: str) -> AsyncIterator[asyncpg.Connection]:
    """Block in a session called `name`: it has executed `sql` and stays idle in transaction, with its locks."""
    connection = await asyncpg.connect(url, server_settings={"application_name": name})
    try:
        await connection.execute("BEGIN")
        await connection.execute(sql)
        yield connection
    finally:
        await connection.close()
